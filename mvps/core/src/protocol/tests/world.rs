//! One image in a memory store, and everybody who acts on it: servers, an admin, a collector.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::encryption::RootKeys;
use crate::env::memory::testing::TestClock;
use crate::env::memory::{MemoryBufferStores, MemoryObjectStore, SeededEntropy, Verdict};
use crate::env::{
    BufferBatch, BufferRecord, BufferStores, Clock, EntropyExt, ObjectStore, OperationKind,
    PageRun, RecordRef, Recovered,
};
use crate::format::manifest::{ByteSpan, Manifest, SegmentEntry, SegmentId, Snapshot};
use crate::format::object_name::{ObjectKind, ObjectName, manifest_key};
use crate::ids::{
    ImageId, Lsn, PageNumber, PageSize, PublicationCounter, PublicationId, Tenure, Version,
};
use crate::protocol::{
    Intent, ManifestStore, Opened, Opener, OpeningError, OpeningRequest, OthersPart, Outcome,
    PublishError, PublishedBy, Released, RuleBroken, WriterPart, compose_by_other,
    compose_publication, open_image, publish,
};
use crate::store::RetryingStore;

pub(crate) const GIB: u64 = 1 << 30;

pub(crate) fn image() -> ImageId {
    ImageId::parse("disk0").unwrap()
}

pub(crate) fn page_size() -> PageSize {
    PageSize::from_bits(12).unwrap()
}

/// A read-write request that may create the image with 1 GiB.
pub(crate) fn request() -> OpeningRequest {
    OpeningRequest {
        image: image(),
        page_size: page_size(),
        image_size_bytes: Some(GIB),
        intent: Intent::CreateOrGrow,
    }
}

pub(crate) struct World {
    pub(crate) objects: Arc<MemoryObjectStore>,
    pub(crate) manifests: ManifestStore,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) entropy: Arc<SeededEntropy>,
    pub(crate) root_keys: RootKeys,
}

impl World {
    pub(crate) fn new() -> Self {
        let objects = Arc::new(MemoryObjectStore::new());
        let clock = Arc::new(TestClock::start());
        let entropy = Arc::new(SeededEntropy::new(1));
        let store = RetryingStore::new(objects.clone(), clock.clone(), entropy.clone());
        Self {
            manifests: ManifestStore::new(store),
            objects,
            clock,
            entropy,
            root_keys: RootKeys::none(),
        }
    }

    pub(crate) async fn newest(&self) -> Manifest {
        self.manifests.newest(&image()).await.unwrap().unwrap()
    }

    /// The oldest call of `kind` from now on waits until the sender is used.
    pub(crate) fn stall(&self, kind: OperationKind) -> oneshot::Sender<()> {
        let (sender, receiver) = oneshot::channel();
        let mut receiver = Some(receiver);
        self.objects.set_script(move |operation| {
            if operation.kind != kind {
                return Verdict::Serve;
            }
            match receiver.take() {
                Some(receiver) => Verdict::Delay(Box::pin(async move {
                    receiver.await.unwrap();
                })),
                None => Verdict::Serve,
            }
        });
        sender
    }

    /// A create that was sent long ago reaches the store now; `true` if it created the manifest.
    pub(crate) async fn land(&self, body: &Manifest) -> bool {
        let key = manifest_key(&body.image, body.version);
        self.objects.create(&key, body.encode()).await.is_ok()
    }

    /// Publishes `body`, which nobody else is in the way of.
    pub(crate) async fn publish_unhindered(&self, body: &Manifest, publisher: PublishedBy) {
        let outcome = publish(&self.manifests, body, publisher).await.unwrap();
        assert!(matches!(outcome, Outcome::Counted(_)), "{outcome:?}");
    }

    fn id(&self) -> PublicationId {
        PublicationId(self.entropy.u128())
    }

    /// A snapshot of the newest version, composed but not published.
    pub(crate) async fn compose_snapshot(&self, name: &str) -> (Manifest, PublishedBy) {
        let base = self.newest().await;
        let mut part = OthersPart::of(&base);
        part.snapshots.push(Snapshot {
            name: name.to_owned(),
            version: base.version,
            created_at: self.clock.wall(),
        });
        let id = self.id();
        let body = compose_by_other(&base, id, part, self.clock.wall()).unwrap();
        (body, PublishedBy::Other(id))
    }

    /// An admin names the newest version.
    pub(crate) async fn snapshot(&self, name: &str) {
        let (body, publisher) = self.compose_snapshot(name).await;
        self.publish_unhindered(&body, publisher).await;
    }

    /// A collector publishes that it forgets every version but the one it makes.
    pub(crate) async fn expire(&self) {
        let base = self.newest().await;
        let mut part = OthersPart::of(&base);
        part.oldest_retained = base.version.next();
        let id = self.id();
        let body = compose_by_other(&base, id, part, self.clock.wall()).unwrap();
        self.publish_unhindered(&body, PublishedBy::Other(id)).await;
    }

    /// A collector deletes the manifests that the newest forgot. (None of these tests deletes one
    /// that a snapshot names before the test is over.)
    pub(crate) async fn delete_forgotten_manifests(&self) {
        let newest = self.newest().await;
        for version in self.manifests.list_versions(&image()).await.unwrap() {
            if version < newest.oldest_retained {
                self.objects.remove(&manifest_key(&image(), version));
            }
        }
    }

    pub(crate) async fn opens(
        &self,
        node: &MemoryBufferStores,
        request: &OpeningRequest,
    ) -> Result<Opened, OpeningError> {
        let mut recovered = node.open(&image()).await.unwrap();
        self.opens_with(&mut recovered, request).await
    }

    pub(crate) fn opener(&self) -> Opener<'_> {
        Opener {
            manifests: &self.manifests,
            clock: &*self.clock,
            entropy: &*self.entropy,
            owner: "host-1, process 7",
            root_keys: &self.root_keys,
        }
    }

    pub(crate) fn opens_with<'a>(
        &'a self,
        recovered: &'a mut Recovered,
        request: &OpeningRequest,
    ) -> impl Future<Output = Result<Opened, OpeningError>> + use<'a> {
        let request = request.clone();
        async move { open_image(&self.opener(), recovered, "/buffers/disk0", &request).await }
    }

    /// A server with a buffer store of its own creates the image.
    pub(crate) async fn first_server(&self) -> Server {
        let opened = self.opens(&MemoryBufferStores::new(), &request()).await;
        Server::of(&opened.unwrap())
    }
}

/// An active writer, as far as it publishes.
pub(crate) struct Server {
    pub(crate) tenure: Tenure,
    /// The newest manifest that it knows of.
    pub(crate) base: Manifest,
    counter: PublicationCounter,
}

impl Server {
    pub(crate) fn of(opened: &Opened) -> Self {
        Self::active(&opened.manifest)
    }

    pub(crate) fn active(manifest: &Manifest) -> Self {
        Self {
            tenure: manifest.tenure,
            base: manifest.clone(),
            counter: manifest.publication,
        }
    }

    /// Composes onto the base, with the next counter.
    pub(crate) fn compose(
        &mut self,
        change: impl FnOnce(&mut WriterPart),
    ) -> Result<Manifest, RuleBroken> {
        self.counter = self.counter.next();
        let mut own = WriterPart::unchanged(&self.base);
        own.publication = self.counter;
        change(&mut own);
        let at = self.base.published_at;
        compose_publication(&self.base, self.tenure, own, &Released::Nothing, at)
    }

    /// A checkpoint of one more commit, in one more segment.
    pub(crate) fn compose_checkpoint(&mut self) -> Manifest {
        let (base, sequence) = (self.base.clone(), self.base.watermark.0);
        let append = |own: &mut WriterPart| append_segment(own, &base, sequence);
        self.compose(append).unwrap()
    }

    /// Publishes, keeping the newest manifest as the base of what comes next.
    pub(crate) async fn publish(
        &mut self,
        world: &World,
        body: &Manifest,
    ) -> Result<Outcome, PublishError> {
        let outcome = publish(&world.manifests, body, PublishedBy::Server).await?;
        self.base = outcome.newest().clone();
        Ok(outcome)
    }

    pub(crate) async fn checkpoint(&mut self, world: &World) -> Manifest {
        let body = self.compose_checkpoint();
        let outcome = self.publish(world, &body).await.unwrap();
        assert_eq!(outcome, Outcome::Counted(body.clone()));
        body
    }
}

/// Adds a segment of the base's tenure that holds the next commit.
pub(crate) fn append_segment(own: &mut WriterPart, base: &Manifest, sequence: u64) {
    let id = own.next_segment;
    own.segments.push(segment(base, id.0, sequence));
    own.tail.push(id);
    own.next_segment = SegmentId(id.0 + 1);
    own.watermark = crate::ids::ObjectSequence(sequence + 1).max(own.watermark);
    own.lsn = own.lsn.next();
}

pub(crate) fn segment(base: &Manifest, id: u32, sequence: u64) -> SegmentEntry {
    SegmentEntry {
        id: SegmentId(id),
        name: ObjectName {
            image: base.image.clone(),
            incarnation: base.incarnation,
            epoch: base.tenure.epoch,
            sequence: crate::ids::ObjectSequence(sequence),
            suffix: 7,
            kind: ObjectKind::Segment,
        },
        size_bytes: 8192,
        index: ByteSpan {
            offset: 4096,
            bytes: 100,
        },
        pages: 1,
        live_pages: 1,
    }
}

/// Commits one page at `lsn` and leaves it unsynced.
pub(crate) async fn commit_page(recovered: &Recovered, lsn: u64) {
    let lsn = Lsn(lsn);
    let record = BufferRecord {
        at: RecordRef {
            first: PageNumber(0),
            lsn,
        },
        run: PageRun::Data(Bytes::from(vec![1; 4096])),
    };
    let batch = BufferBatch {
        last_lsn: lsn,
        records: vec![record],
    };
    recovered.store.commit(batch).await.unwrap();
}

/// What the collector may delete, going by the newest manifest alone (protocol §4.1).
pub(crate) fn collectable(newest: &Manifest, name: &ObjectName) -> bool {
    let retired = newest.retired.iter().map(|retired| &retired.name);
    let protected = crate::reachability::referenced_objects(newest).contains(name)
        || retired.into_iter().any(|retired| retired == name);
    let settled = name.epoch < newest.tenure.epoch
        || (name.epoch == newest.tenure.epoch && name.sequence < newest.watermark);
    !protected && settled
}

pub(crate) fn version(number: u64) -> Version {
    Version(number)
}
