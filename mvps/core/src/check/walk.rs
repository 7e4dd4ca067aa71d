//! Walks one image after the other: its retained manifests, what they reference, and what lies
//! there without being referenced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt};

use super::objects::{
    FrameChecks, PageCounts, count_leaf, read, verify_map_object, verify_segment,
};
use super::report::{CheckProgress, CheckReport, Finding, FindingKind, ImageCheck, Leaks};
use crate::encryption::{ImageKeys, KeyError, RootKeys};
use crate::env::{ObjectEntry, StoreError};
use crate::format::manifest::{Manifest, Pinned, RootEntry, SegmentEntry, SegmentId};
use crate::format::map_object::{LEAF_PAGES, Leaf, Root, RootLeaf};
use crate::format::object_name::{ObjectName, manifest_key, objects_prefix};
use crate::ids::{ImageId, Version};
use crate::object_reads::ObjectReads;
use crate::protocol::{ManifestError, ManifestStore};
use crate::reachability::{ObjectFate, Reachable};
use crate::store::RetryingStore;

/// Objects or leaves verified at the same time. Each may hold an index of a few megabytes.
const READS_IN_FLIGHT_MAX: usize = 8;

/// Keys of one listing.
const LIST_PAGE: usize = 1000;

/// How often an image is walked that changes all the time and on which something is found.
const WALKS_MAX: usize = 4;

/// Is told how far a check is, often.
pub type CheckObserver = Arc<dyn Fn(CheckProgress) + Send + Sync>;

/// Verifies what is stored: manifests, maps, segments, and on request every page.
pub struct Checker {
    store: RetryingStore,
    manifests: ManifestStore,
    reads: ObjectReads,
    read_data: bool,
    root_keys: RootKeys,
    observer: CheckObserver,
    progress: Mutex<CheckProgress>,
}

/// What was verified of one image so far.
#[derive(Default)]
struct Ledger {
    segments: BTreeMap<ObjectName, SegmentEntry>,
    /// Size, and the number that `pieces` knows the object by.
    maps: BTreeMap<ObjectName, (u64, usize)>,
    /// Roots and leaves: object and offset.
    pieces: BTreeSet<(usize, u64)>,
}

impl Checker {
    /// A checker of `store`; with `read_data` it reads page content too.
    #[must_use]
    pub fn new(store: RetryingStore, read_data: bool, observer: CheckObserver) -> Self {
        Self {
            manifests: ManifestStore::new(store.clone()),
            reads: ObjectReads::new(store.clone()),
            store,
            read_data,
            root_keys: RootKeys::none(),
            observer,
            progress: Mutex::default(),
        }
    }

    /// The same checker with these root keys: without them the content of images that are encrypted
    /// is verified only as far as its checksums go.
    #[must_use]
    pub fn with_root_keys(mut self, root_keys: RootKeys) -> Self {
        self.root_keys = root_keys;
        self
    }

    /// Checks all images, or `only` one.
    ///
    /// # Errors
    /// [`StoreError`] if the images cannot be listed. What fails later is a finding.
    pub async fn check(&self, only: Option<&ImageId>) -> Result<CheckReport, StoreError> {
        let images = match only {
            Some(image) => vec![image.clone()],
            None => self.manifests.list_images().await?,
        };
        self.advance(|progress| progress.images = images.len() as u64);
        let mut report = CheckReport {
            read_data: self.read_data,
            images: Vec::new(),
        };
        for image in &images {
            report.images.push(self.image(image).await);
            self.advance(|progress| progress.images_done += 1);
        }
        Ok(report)
    }

    async fn image(&self, image: &ImageId) -> ImageCheck {
        let mut walks = 1;
        loop {
            let check = self.walk(image).await;
            let walked = check.newest_version.map(Version);
            if check.findings.is_empty() || walks == WALKS_MAX {
                return check;
            }
            match self.manifests.newest_version(image).await {
                Ok(now) if now != walked => walks += 1,
                _ => return check,
            }
        }
    }

    async fn walk(&self, image: &ImageId) -> ImageCheck {
        let mut check = ImageCheck::of(image);
        let newest = match self.manifests.newest(image).await {
            Ok(Some(newest)) => newest,
            Ok(None) => {
                let reason = "the image has no manifest";
                let finding = Finding::new(FindingKind::LostManifest, image, reason);
                check.found(finding);
                return check;
            }
            Err(error) => {
                check.found(manifest_finding(image, None, &error));
                return check;
            }
        };
        check.newest_version = Some(newest.version.0);
        let mut reachable = Reachable::of(&newest);
        let mut ledger = Ledger::default();
        check.encrypted = newest.own_data_key().is_some();
        let checks = self.frame_checks(&newest, &mut check);
        self.version(&newest, &checks, &mut ledger, &mut check)
            .await;
        let unread: Vec<Version> = reachable.unread().collect();
        let mut loads = stream::iter(unread)
            .map(|version| {
                let load = async move { (version, self.manifests.load(image, version).await) };
                load.boxed()
            })
            .buffered(READS_IN_FLIGHT_MAX);
        while let Some((version, loaded)) = loads.next().await {
            match loaded {
                Ok(manifest) => {
                    reachable.take_in(&manifest);
                    // The same keys as those of the newest, which has them as they are wrapped now;
                    // but for what pins keep of a life before, or of an image that was deleted.
                    let others =
                        manifest.incarnation != newest.incarnation || newest.data_keys.is_empty();
                    let own = others.then(|| self.frame_checks(&manifest, &mut check));
                    let checks = own.as_ref().unwrap_or(&checks);
                    self.version(&manifest, checks, &mut ledger, &mut check)
                        .await;
                }
                Err(error) => check.found(manifest_finding(image, Some(version), &error)),
            }
        }
        drop(loads);
        if let Err(error) = self.listing(&newest, &reachable, &ledger, &mut check).await {
            let prefix = objects_prefix(image);
            check.found(Finding::new(FindingKind::Unanswered, prefix, error));
        }
        check
    }

    /// How the frames of what `manifest` references are verified.
    fn frame_checks(&self, manifest: &Manifest, check: &mut ImageCheck) -> FrameChecks {
        if !self.read_data {
            return FrameChecks::None;
        }
        match ImageKeys::unwrap(&self.root_keys, &manifest.image, &manifest.data_keys) {
            Ok(keys) => FrameChecks::Open(keys),
            Err(error) => {
                if let KeyError::Altered { image, .. } = &error {
                    let key = manifest_key(image, manifest.version);
                    check.found(Finding::new(FindingKind::Damaged, key, &error));
                }
                check.unopened = Some(error.to_string());
                let keys = manifest.data_keys.iter();
                FrameChecks::Sealed(
                    keys.map(|key| (key.image.clone(), key.incarnation))
                        .collect(),
                )
            }
        }
    }

    /// Verifies what `manifest` references and no version before it did. The live pages of the
    /// first version that is walked are counted.
    async fn version(
        &self,
        manifest: &Manifest,
        checks: &FrameChecks,
        ledger: &mut Ledger,
        check: &mut ImageCheck,
    ) {
        let counts_live_pages = check.versions == 0;
        check.versions += 1;
        self.advance(|progress| progress.versions += 1);
        self.segments(manifest, checks, ledger, check).await;
        self.map_objects(manifest, ledger, check).await;
        let Some(root) = manifest.root else {
            return;
        };
        match self.map(manifest, root, ledger).await {
            Err(finding) => check.found(finding),
            Ok(Some(counts)) if counts_live_pages => {
                live_page_findings(manifest, &counts).for_each(|it| check.found(it));
            }
            Ok(_) => {}
        }
    }

    async fn segments(
        &self,
        manifest: &Manifest,
        checks: &FrameChecks,
        ledger: &mut Ledger,
        check: &mut ImageCheck,
    ) {
        let mut fresh = Vec::new();
        for entry in &manifest.segments {
            match ledger.segments.get(&entry.name) {
                None => {
                    ledger.segments.insert(entry.name.clone(), entry.clone());
                    fresh.push(entry);
                }
                Some(known) => {
                    let same = (known.size_bytes, known.index, known.pages)
                        == (entry.size_bytes, entry.index, entry.pages);
                    if !same {
                        let version = manifest.version;
                        let reason = format!("version {version} lists it otherwise than another");
                        let kind = FindingKind::WrongCount;
                        check.found(Finding::new(kind, &entry.name, reason));
                    }
                }
            }
        }
        let mut verified = stream::iter(fresh)
            .map(|entry| verify_segment(&self.reads, manifest, entry, checks).boxed())
            .buffered(READS_IN_FLIGHT_MAX);
        while let Some(result) = verified.next().await {
            check.objects_verified += 1;
            match result {
                Ok(data_bytes) => {
                    check.data_bytes_verified += data_bytes;
                    self.advance(|progress| {
                        progress.objects += 1;
                        progress.data_bytes += data_bytes;
                    });
                }
                Err(finding) => check.found(finding),
            }
        }
    }

    async fn map_objects(&self, manifest: &Manifest, ledger: &mut Ledger, check: &mut ImageCheck) {
        for entry in &manifest.maps {
            let number = ledger.maps.len();
            if ledger.maps.contains_key(&entry.name) {
                continue;
            }
            ledger
                .maps
                .insert(entry.name.clone(), (entry.size_bytes, number));
            check.objects_verified += 1;
            self.advance(|progress| progress.objects += 1);
            if let Err(finding) = verify_map_object(&self.reads, manifest, entry).await {
                check.found(finding);
            }
        }
    }

    /// Verifies the root and the leaves that no version before it had. `None` if the root itself
    /// was there before. The counts are of the leaves that were read: of all, for the first
    /// version that is walked.
    async fn map(
        &self,
        manifest: &Manifest,
        root: RootEntry,
        ledger: &mut Ledger,
    ) -> Result<Option<PageCounts>, Finding> {
        let objects: BTreeMap<_, &ObjectName> =
            manifest.maps.iter().map(|it| (it.id, &it.name)).collect();
        let key = manifest_key(&manifest.image, manifest.version);
        let unlisted = |number: u32| {
            let reason = format!("map object {number} is referred to and not listed");
            Finding::new(FindingKind::Dangling, &key, reason)
        };
        let of = |map| objects.get(&map).copied();
        let object = of(root.map).ok_or_else(|| unlisted(root.map.0))?;
        if !ledger.is_fresh(object, root.span.offset) {
            return Ok(None);
        }
        let decoded = read(&self.reads, object, root.span, |seed, bytes| {
            Root::decode(seed, &bytes)
        });
        let decoded = decoded.await?;
        let leaves_max = (manifest.size_bytes >> manifest.page_size.bits()).div_ceil(LEAF_PAGES);
        if decoded
            .leaves
            .last()
            .is_some_and(|it| it.leaf.0 >= leaves_max)
        {
            let reason = "the map has pages beyond the image's end";
            return Err(Finding::new(FindingKind::Damaged, object, reason));
        }
        let mut fresh: Vec<(&ObjectName, RootLeaf)> = Vec::new();
        for leaf in decoded.leaves {
            let object = of(leaf.map).ok_or_else(|| unlisted(leaf.map.0))?;
            if ledger.is_fresh(object, leaf.span.offset) {
                fresh.push((object, leaf));
            }
        }
        let segments: BTreeMap<SegmentId, &SegmentEntry> =
            manifest.segments.iter().map(|it| (it.id, it)).collect();
        let mut counts = PageCounts::new();
        let mut leaves = stream::iter(fresh)
            .map(|(object, leaf)| self.leaf(object, leaf).boxed())
            .buffered(READS_IN_FLIGHT_MAX);
        while let Some(leaf) = leaves.next().await {
            let (object, leaf) = leaf?;
            count_leaf(&segments, object, &leaf, &mut counts)?;
        }
        Ok(Some(counts))
    }

    async fn leaf<'a>(
        &self,
        object: &'a ObjectName,
        leaf: RootLeaf,
    ) -> Result<(&'a ObjectName, Leaf), Finding> {
        let decode = |seed, bytes: bytes::Bytes| Leaf::decode(seed, leaf.leaf, &bytes);
        Ok((object, read(&self.reads, object, leaf.span, decode).await?))
    }

    /// Compares what lies there with what is referenced.
    async fn listing(
        &self,
        newest: &Manifest,
        reachable: &Reachable,
        ledger: &Ledger,
        check: &mut ImageCheck,
    ) -> Result<(), StoreError> {
        let prefix = objects_prefix(&newest.image);
        let mut leaks = Leaks::default();
        let mut needed = 0;
        let mut last: Option<String> = None;
        loop {
            let page = self.store.list(&prefix, last.as_deref(), LIST_PAGE).await?;
            for entry in &page {
                check.objects += 1;
                check.object_bytes += entry.size;
                let Ok(name) = ObjectName::parse(&entry.key) else {
                    let reason = "no object of mvps is called so";
                    check.found(Finding::new(FindingKind::UnknownKey, &entry.key, reason));
                    continue;
                };
                if let Some(finding) = ledger.size_finding(&name, entry) {
                    check.found(finding);
                }
                if !reachable.is_complete() {
                    continue;
                }
                match reachable.object_fate(&name) {
                    ObjectFate::Needed => needed += 1,
                    ObjectFate::Garbage => {
                        leaks.garbage += 1;
                        leaks.garbage_bytes += entry.size;
                    }
                    ObjectFate::Unsettled => {
                        leaks.unsettled += 1;
                        leaks.unsettled_bytes += entry.size;
                    }
                    ObjectFate::OtherImage => {}
                }
            }
            if page.len() < LIST_PAGE {
                break;
            }
            last = page.last().map(|entry| entry.key.clone());
        }
        if reachable.is_complete() {
            check.leaks = Some(leaks);
            if needed < reachable.needed_objects() {
                self.kept_but_missing(newest, ledger, check).await?;
            }
        }
        Ok(())
    }

    /// Something needed is missing. What versions reference was found missing when it was read;
    /// what is retired or pinned is looked for here.
    async fn kept_but_missing(
        &self,
        newest: &Manifest,
        ledger: &Ledger,
        check: &mut ImageCheck,
    ) -> Result<(), StoreError> {
        let retired = newest.retired.iter().map(|it| &it.name);
        let pinned = newest.pins.iter().filter_map(|pin| match &pin.pinned {
            Pinned::Objects(names) => Some(names),
            Pinned::Version(_) => None,
        });
        let kept: BTreeSet<&ObjectName> = retired.chain(pinned.flatten()).collect();
        for name in kept {
            let is_known = ledger.segments.contains_key(name) || ledger.maps.contains_key(name);
            if is_known || name.image != newest.image {
                continue;
            }
            let key = name.key();
            let found = self.store.list(&key, None, 1).await?;
            if found.first().is_none_or(|entry| entry.key != key) {
                let reason = "it is retired or pinned, and not there";
                check.found(Finding::new(FindingKind::Dangling, key, reason));
            }
        }
        Ok(())
    }

    fn advance(&self, change: impl FnOnce(&mut CheckProgress)) {
        let mut progress = self.progress.lock().expect("no holder panics");
        change(&mut progress);
        (self.observer)(*progress);
    }
}

impl Ledger {
    /// Whether a piece of a map object that was seen is met for the first time.
    fn is_fresh(&mut self, object: &ObjectName, offset: u64) -> bool {
        match self.maps.get(object) {
            Some((_, number)) => self.pieces.insert((*number, offset)),
            None => true,
        }
    }

    fn size_finding(&self, name: &ObjectName, entry: &ObjectEntry) -> Option<Finding> {
        let segment = self.segments.get(name).map(|known| known.size_bytes);
        let expected = segment.or_else(|| self.maps.get(name).map(|(size, _)| *size))?;
        let reason = format!("it has {} bytes, {expected} are expected", entry.size);
        let wrong = entry.size != expected;
        wrong.then(|| Finding::new(FindingKind::WrongSize, name, reason))
    }
}

/// Segments of whose pages not as many are alive as the manifest says.
fn live_page_findings<'a>(
    manifest: &'a Manifest,
    counts: &'a PageCounts,
) -> impl Iterator<Item = Finding> + 'a {
    let compacted = manifest
        .segments
        .iter()
        .filter(|entry| !manifest.tail.contains(&entry.id));
    compacted.filter_map(|entry| {
        let counted = counts.get(&entry.id).copied().unwrap_or(0);
        let listed = u64::from(entry.live_pages);
        let reason =
            format!("the map points to {counted} of its pages, the manifest says {listed}");
        (counted != listed).then(|| Finding::new(FindingKind::WrongCount, &entry.name, reason))
    })
}

fn manifest_finding(image: &ImageId, version: Option<Version>, error: &ManifestError) -> Finding {
    let kind = match error {
        ManifestError::Store(_) => FindingKind::Unanswered,
        ManifestError::NoSuchVersion { .. } => FindingKind::LostManifest,
        ManifestError::NewerFormat { .. } | ManifestError::Corrupt { .. } => {
            FindingKind::UnreadableManifest
        }
    };
    let key = match version {
        Some(version) => manifest_key(image, version),
        None => image.to_string(),
    };
    Finding::new(kind, key, error)
}
