//! One object store; actors who each reach it through a door of their own, at which a request can
//! be held; and what must hold whatever they did, read from the stored bytes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::admin::{self, Admin, AdminError, Cloned, ReaderLife, RolledBack};
use crate::collector::expiry::ExpiryPolicy;
use crate::collector::{CollectionPolicy, CollectionReport, Collector, Silent};
use crate::engine::{
    Acknowledge, Attachment, CompactionSettings, EngineConfig, Host, Image, OpenError, open,
};
use crate::env::memory::testing::{TestClock, TestSpawner};
use crate::env::memory::{MemoryBufferStores, MemoryObjectStore, SeededEntropy};
use crate::env::{
    Environment, GetRange, ObjectBody, ObjectEntry, ObjectStore, OperationKind, PartTag,
    StoreError, UploadEntry, UploadId,
};
use crate::format::manifest::{Manifest, Pinned};
use crate::format::object_name::{manifest_key, parse_manifest_key};
use crate::ids::{ImageId, PageSize, Version};
use crate::protocol::{Intent, ManifestStore, OpeningRequest};
use crate::reachability::{is_tombstone, referenced_objects};
use crate::session::{EngineImages, Images, OpenImage, ReadAt, ServedImage};
use crate::token::{Grant, Shown};

/// Keys of manifests contain it.
pub const MANIFESTS: &str = "/manifests/";
/// Keys of segments and maps contain it.
pub const OBJECTS: &str = "/objects/";

/// In virtual time, which passes when nothing can run.
const HANGS_AFTER: Duration = Duration::from_hours(1);

const PAGE: usize = 4096;
const IMAGE_BYTES: u64 = 1 << 20;

pub fn named(name: &str) -> ImageId {
    ImageId::parse(name).expect("a valid name")
}

/// A request that waits at a door.
pub struct Held {
    reached: oneshot::Receiver<()>,
    release: oneshot::Sender<()>,
}

impl Held {
    /// Comes back when the request is there.
    pub async fn reached(&mut self) {
        let reached = tokio::time::timeout(HANGS_AFTER, &mut self.reached).await;
        let reached = reached.expect("the request comes to the door in time");
        reached.expect("whoever makes the request lives");
    }

    /// Lets it go on to the store.
    pub fn release(self) {
        self.release.send(()).expect("it still waits");
    }
}

struct Hold {
    kind: OperationKind,
    key: String,
    reached: oneshot::Sender<()>,
    release: oneshot::Receiver<()>,
}

/// The store as one actor reaches it.
struct Door {
    objects: Arc<MemoryObjectStore>,
    hold: Mutex<Option<Hold>>,
}

impl Door {
    fn held(&self, kind: OperationKind, key: &str) -> Option<Hold> {
        let mut place = self.hold.lock().expect("no holder panics");
        place.take_if(|hold| hold.kind == kind && key.contains(&hold.key))
    }

    /// Whoever is to be held waits here until it is released.
    async fn pass(&self, kind: OperationKind, key: &str) {
        if let Some(hold) = self.held(kind, key) {
            hold.reached.send(()).expect("the scenario waits for it");
            hold.release.await.expect("the scenario releases it");
        }
    }
}

#[async_trait]
impl ObjectStore for Door {
    async fn put(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        self.pass(OperationKind::Put, key).await;
        self.objects.put(key, body).await
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        self.pass(OperationKind::Create, key).await;
        self.objects.create(key, body).await
    }

    async fn start_upload(&self, key: &str) -> Result<UploadId, StoreError> {
        self.pass(OperationKind::StartUpload, key).await;
        self.objects.start_upload(key).await
    }

    async fn upload_part(
        &self,
        key: &str,
        upload: &UploadId,
        number: u32,
        body: Bytes,
    ) -> Result<PartTag, StoreError> {
        self.pass(OperationKind::UploadPart, key).await;
        self.objects.upload_part(key, upload, number, body).await
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &UploadId,
        parts: &[PartTag],
    ) -> Result<(), StoreError> {
        self.pass(OperationKind::CompleteUpload, key).await;
        self.objects.complete_upload(key, upload, parts).await
    }

    async fn abort_upload(&self, key: &str, upload: &UploadId) -> Result<(), StoreError> {
        self.pass(OperationKind::AbortUpload, key).await;
        self.objects.abort_upload(key, upload).await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UploadEntry>, StoreError> {
        self.pass(OperationKind::ListUploads, prefix).await;
        self.objects.list_uploads(prefix).await
    }

    async fn get(&self, key: &str, range: GetRange) -> Result<ObjectBody, StoreError> {
        self.pass(OperationKind::of_get(&range), key).await;
        self.objects.get(key, range).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectEntry>, StoreError> {
        self.pass(OperationKind::List, prefix).await;
        self.objects.list(prefix, start_after, limit).await
    }

    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.pass(OperationKind::ListFolders, prefix).await;
        self.objects.list_folders(prefix).await
    }

    async fn delete(&self, keys: &[String]) -> Vec<Result<(), StoreError>> {
        let first = keys.first().map_or("", String::as_str);
        self.pass(OperationKind::Delete, first).await;
        self.objects.delete(keys).await
    }
}

/// What everybody shares.
pub struct Stage {
    pub objects: Arc<MemoryObjectStore>,
}

/// A server's machine, an operator or a collector. Cheap to clone.
#[derive(Clone)]
pub struct Actor {
    door: Arc<Door>,
    host: Host,
    manifests: ManifestStore,
    entropy: Arc<SeededEntropy>,
}

fn config() -> EngineConfig {
    EngineConfig {
        // No scenario waits for a timer.
        checkpoint_interval: Duration::from_hours(24 * 365),
        compression: None,
        ..EngineConfig::default()
    }
}

/// Compacts the map and cleans whatever can be, so that a rewritten image soon shares nothing any
/// more.
fn eager() -> EngineConfig {
    EngineConfig {
        compaction: CompactionSettings {
            clean_above_percent: 110,
            clean_down_to_percent: 105,
            compact_map_for_space_bytes: 1 << 12,
            tail_segments_worth_compaction: 2,
            small_segments_max: 3,
            ..CompactionSettings::default()
        },
        ..config()
    }
}

/// Forget everything but the newest version, or nothing.
fn policy(inactive: Duration) -> CollectionPolicy {
    CollectionPolicy {
        expiry: ExpiryPolicy {
            inactive,
            states_min: 1,
        },
        dry_run: false,
        deletes_max: None,
        // Time never decides about safety.
        abandon_after: Duration::ZERO,
    }
}

impl Stage {
    pub fn new() -> Self {
        Self {
            objects: Arc::new(MemoryObjectStore::new()),
        }
    }

    /// Each has another seed.
    pub fn actor(&self, seed: u64) -> Actor {
        let door = Arc::new(Door {
            objects: Arc::clone(&self.objects),
            hold: Mutex::new(None),
        });
        let entropy = Arc::new(SeededEntropy::new(seed));
        let environment = Environment {
            clock: Arc::new(TestClock::start()),
            entropy: entropy.clone(),
            spawner: Arc::new(TestSpawner),
            objects: door.clone(),
            buffers: Arc::new(MemoryBufferStores::new()),
        };
        let host = Host::new(environment, 64 << 20);
        Actor {
            door,
            manifests: ManifestStore::new(host.store.clone()),
            host,
            entropy,
        }
    }

    /// The versions of `of` that have a manifest, ascending.
    pub fn versions(&self, of: &str) -> Vec<u64> {
        let keys = self.objects.keys();
        let parsed = keys.iter().filter_map(|key| parse_manifest_key(key).ok());
        let own = parsed.filter(|(found, _)| *found == named(of));
        let mut versions: Vec<u64> = own.map(|(_, version)| version.0).collect();
        versions.sort_unstable();
        versions
    }

    pub fn version(&self, of: &str, version: u64) -> Manifest {
        let key = manifest_key(&named(of), Version(version));
        let body = self.objects.peek(&key);
        let body = body.unwrap_or_else(|| panic!("version {version} of {of} is there"));
        Manifest::decode(&named(of), Version(version), &body).expect("a manifest")
    }

    pub fn newest(&self, of: &str) -> Manifest {
        let versions = self.versions(of);
        self.version(of, *versions.last().expect("it has a manifest"))
    }

    /// Keys of objects of `of`.
    pub fn objects_of(&self, of: &str) -> BTreeSet<String> {
        let prefix = format!("images/{of}{OBJECTS}");
        let keys = self.objects.keys().into_iter();
        keys.filter(|key| key.starts_with(&prefix)).collect()
    }

    /// What every image's newest manifest and every version that it retains references, is there.
    pub fn check_nothing_needed_is_missing(&self) {
        let keys: BTreeSet<String> = self.objects.keys().into_iter().collect();
        let images: BTreeSet<String> = keys
            .iter()
            .filter_map(|key| parse_manifest_key(key).ok())
            .map(|(image, _)| image.to_string())
            .collect();
        for of in images {
            let newest = self.newest(&of);
            if is_tombstone(&newest) {
                continue;
            }
            let mut retained: BTreeSet<u64> =
                (newest.oldest_retained.0..=newest.version.0).collect();
            retained.insert(newest.version.0);
            retained.extend(newest.snapshots.iter().map(|it| it.version.0));
            retained.extend(newest.pins.iter().filter_map(|pin| match pin.pinned {
                Pinned::Version(version) => Some(version.0),
                Pinned::Objects(_) => None,
            }));
            for version in retained {
                let manifest = self.version(&of, version);
                for name in referenced_objects(&manifest) {
                    let key = name.key();
                    assert!(keys.contains(&key), "{of} at {version} needs {key}");
                }
            }
        }
    }
}

impl Actor {
    /// Its next request of that kind whose key contains `key` will wait.
    pub fn hold(&self, kind: OperationKind, key: &str) -> Held {
        let (reached, is_reached) = oneshot::channel();
        let (release, released) = oneshot::channel();
        *self.door.hold.lock().expect("no holder panics") = Some(Hold {
            kind,
            key: key.to_owned(),
            reached,
            release: released,
        });
        Held {
            reached: is_reached,
            release,
        }
    }

    /// Does `what` beside the scenario.
    pub fn start<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        what: impl FnOnce(Self) -> F,
    ) -> JoinHandle<T> {
        tokio::spawn(what(self.clone()))
    }

    pub async fn try_open(&self, name: &str) -> Result<Image, OpenError> {
        self.open_with(name, config()).await
    }

    async fn open_with(&self, name: &str, config: EngineConfig) -> Result<Image, OpenError> {
        let request = OpeningRequest {
            image: named(name),
            page_size: PageSize::from_bits(12).expect("12 is in range"),
            image_size_bytes: Some(IMAGE_BYTES),
            intent: Intent::CreateOrGrow,
        };
        open(&self.host, &request, config).await
    }

    pub async fn open(&self, name: &str) -> Attachment {
        let opened = self.try_open(name).await;
        opened.expect("the image opens").attach()
    }

    /// Makes the image, with `byte` in its first page, and closes it. Returns the version in which
    /// that was published first.
    pub async fn make(&self, name: &str, byte: u8) -> u64 {
        let disk = self.open(name).await;
        write(&disk, 0, byte).await;
        let version = checkpoint(&disk).await;
        close(disk).await;
        version
    }

    /// Overwrites everything in the image, and gives it time to compact and clean.
    pub async fn rewrite(&self, name: &str, byte: u8) {
        let opened = self.open_with(name, eager()).await;
        let disk = opened.expect("the image opens").attach();
        for _ in 0..30 {
            write(&disk, 0, byte).await;
            checkpoint(&disk).await;
        }
        tokio::time::sleep(Duration::from_mins(1)).await;
        close(disk).await;
    }

    /// What the first page holds, when a server on this machine opens the image.
    pub async fn first_page(&self, name: &str) -> u8 {
        let disk = self.open(name).await;
        let byte = read(&disk, 0).await;
        close(disk).await;
        byte
    }

    /// Serves a version, as the session layer does, in the name of `reader`.
    pub async fn serve(&self, of: &str, version: u64, reader: ReaderLife) -> ServedImage {
        let images = EngineImages::new(self.host.clone(), config()).with_reader(reader);
        let grant = Grant {
            image: named(of),
            size_bytes: None,
            page_size: None,
            read_only: true,
            shown: Shown::Version(Version(version)),
            client: None,
            durability: None,
            tls_client: None,
        };
        images.open(&grant).await.expect("it is retained")
    }

    pub fn admin(&self) -> Admin<'_> {
        Admin {
            manifests: &self.manifests,
            clock: &*self.host.environment.clock,
            entropy: &*self.entropy,
            root_keys: &self.host.root_keys,
        }
    }

    pub async fn snapshot(&self, of: &str, name: &str) {
        let made = admin::create_snapshot(&self.admin(), &named(of), name, None).await;
        made.expect("a snapshot");
    }

    pub async fn roll_back(&self, of: &str, version: u64) -> Result<RolledBack, AdminError> {
        let shown = Shown::Version(Version(version));
        admin::roll_back(&self.admin(), &named(of), &shown).await
    }

    pub async fn clone_as(&self, source: &str, target: &str) -> Result<Cloned, AdminError> {
        let admin = self.admin();
        admin::clone_image(&admin, &named(source), &Shown::Newest, &named(target)).await
    }

    pub async fn delete(&self, of: &str) {
        let deleted = admin::delete(&self.admin(), &named(of), false).await;
        deleted.expect("deleted");
    }

    pub async fn take_over(&self, of: &str) {
        let admin = self.admin();
        let taken = admin::takeover(admin.manifests, admin.clock, admin.entropy, &named(of)).await;
        taken.expect("taken over");
    }

    /// A pass over one image that forgets no version.
    pub async fn collect(&self, of: &str) -> CollectionReport {
        self.pass(of, Duration::from_hours(24 * 365)).await
    }

    /// A pass over one image that forgets every version but the newest.
    pub async fn collect_all(&self, of: &str) -> CollectionReport {
        self.pass(of, Duration::ZERO).await
    }

    async fn pass(&self, of: &str, inactive: Duration) -> CollectionReport {
        let environment = &self.host.environment;
        let collector = Collector::new(
            self.host.store.clone(),
            environment.clock.clone(),
            environment.entropy.clone(),
            policy(inactive),
            Arc::new(Silent),
        );
        let report = collector.collect(Some(&named(of))).await;
        report.expect("no listing of images is needed")
    }
}

pub async fn write(disk: &Attachment, number: u64, byte: u8) {
    let data = Bytes::from(vec![byte; PAGE]);
    let written = disk.write(number * PAGE as u64, data, Acknowledge::Buffered);
    written.await.expect("the write is acknowledged");
}

pub async fn read(disk: &Attachment, number: u64) -> u8 {
    let content = disk.read(number * PAGE as u64, PAGE as u32).await;
    let content = content.expect("the page can be read").into_bytes();
    assert!(content.iter().all(|byte| *byte == content[0]), "one byte");
    content[0]
}

/// What the first page of a version holds.
pub async fn read_version(served: &ServedImage) -> u8 {
    let disk = served.attach();
    // An object that is gone is asked for again and again.
    let content = tokio::time::timeout(HANGS_AFTER, disk.read(0, PAGE as u32)).await;
    let content = content.expect("every object is there");
    content.expect("the page can be read").into_bytes()[0]
}

pub async fn checkpoint(disk: &Attachment) -> u64 {
    let version = disk.image().checkpoint().await;
    version.expect("a checkpoint").0
}

pub async fn close(disk: Attachment) {
    let image = disk.image().clone();
    drop(disk);
    image.close().await.expect("it closes");
}
