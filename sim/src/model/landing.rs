//! What may land in the object store, checked at the instant it lands: fencing (oracle 7), that a
//! manifest's references exist and hold the right bytes (2, 8), names written once (9).

use std::sync::Arc;

use futures_util::FutureExt;
use mvps_core::encryption::ImageKeys;
use mvps_core::engine::Host;
use mvps_core::engine::read::FrameReader;
use mvps_core::engine::read::Map;
use mvps_core::engine::read::{MapGuard, View};
use mvps_core::env::Environment;
use mvps_core::env::memory::{MemoryBufferStores, MemoryObjectStore, SeededEntropy};
use mvps_core::format::manifest::{ImageState, Manifest};
use mvps_core::format::object_name::{ObjectName, manifest_key};
use mvps_core::ids::{Lsn, Version};
use xxhash_rust::xxh3::xxh3_64;

use super::content::Pages;
use super::history::BranchId;
use super::state::{Model, State};
use crate::environment::clock::SimClock;
use crate::environment::spawner::InlineSpawner;
use crate::plan::root_keys;
use crate::random::RandomStream;

/// Publications of a tenure in a row at the same LSN: images are small.
const IDLE_PUBLICATIONS_MAX: u64 = 200;

/// The cache holds everything that one check reads.
const CACHE_BYTES: u64 = 64 << 20;

/// Whether the active writer, or its readers, may read the object through `newest`.
fn needs(newest: &Manifest, key: &str) -> bool {
    let segments = newest.segments.iter().map(|it| &it.name);
    let maps = newest.maps.iter().map(|it| &it.name);
    let retired = newest.retired.iter().map(|it| &it.name);
    segments
        .chain(maps)
        .chain(retired)
        .any(|name| name.key() == key)
}

/// The image's state as the timeline shows it.
fn state_of(manifest: &Manifest) -> &'static str {
    match manifest.state {
        ImageState::Active => "active",
        ImageState::Clean => "clean",
        ImageState::Tombstone => "tombstone",
        ImageState::Abandoned => "abandoned",
    }
}

impl Model {
    pub(super) fn object_landed(&self, client: &str, key: &str, contents: &MemoryObjectStore) {
        if ObjectName::parse(key).is_err() {
            return;
        }
        let body = contents.peek(key).expect("it landed just now");
        let checksum = xxh3_64(&body);
        let mut state = self.state();
        self.journal.checked(9);
        let before = state.objects.insert(key.to_owned(), checksum);
        if before.is_some_and(|before| before != checksum) {
            self.journal.fail(
                "9 (names)",
                format_args!("{client} wrote {key} twice, with different bytes"),
            );
        }
    }

    /// `client` waits for an object that does not exist.
    pub(super) fn missing(&self, client: &str, key: &str) {
        let state = self.state();
        let tenure = state.servers.get(client).and_then(|it| it.tenure);
        let newest = state.newest.as_ref();
        let is_active = tenure.is_some() && tenure == newest.map(|it| it.tenure.id);
        // It may look at a version to roll back to or to compare with, which expires meanwhile.
        let server = state.servers.get(client);
        let looks_back = server.is_some_and(|it| it.rolling_back || it.comparing > 0);
        let is_needed = || newest.is_some_and(|it| needs(it, key));
        if is_active && (!looks_back || is_needed()) {
            self.journal.fail(
                "8 (collection)",
                format_args!("{client} is the active writer and does not find {key}"),
            );
        }
        if let Some(reader) = state.readers.get(client) {
            let version = reader.manifest.version;
            self.journal.fail(
                "8 (collection)",
                format_args!("{client} pinned version {version} and does not find {key}"),
            );
        }
    }

    /// `manifest` landed as the newest; of a clone's first one `base` is the content.
    pub(super) fn published(
        &self,
        client: &str,
        manifest: Manifest,
        base: Option<Pages>,
        contents: &MemoryObjectStore,
    ) {
        let mut state = self.state();
        let before = state.newest.take();
        let branch = self.check_tenure(&mut state, client, before.as_deref(), &manifest, base);
        let landed = state.history.branch(branch).landed;
        if let Some(before) = &before {
            self.check_retirement(&state, client, before, &manifest);
            self.check_expiry(&state, client, before, &manifest);
            if manifest.version != before.version.next() || manifest.lsn < before.lsn {
                self.journal.fail(
                    "7 (fencing)",
                    format_args!(
                        "version {} at LSN {} follows version {} at LSN {}",
                        manifest.version, manifest.lsn, before.version, before.lsn
                    ),
                );
            }
            let same_life = manifest.incarnation == before.incarnation;
            if same_life && manifest.size_bytes < before.size_bytes {
                self.journal
                    .fail("7 (fencing)", format_args!("the image shrank"));
            }
        } else if manifest.version != Version(1) {
            self.journal
                .fail("7 (fencing)", format_args!("the first version is not 1"));
        }
        let disk = state.disk(client);
        let (synced, intact) = (
            disk.synced,
            disk.branch == Some(branch) && !disk.rolled_back,
        );
        if intact && manifest.lsn > landed && manifest.lsn > synced {
            self.journal.fail(
                "1 (publication)",
                format_args!(
                    "{client} published LSN {} with its buffer synced to {synced}",
                    manifest.lsn
                ),
            );
        }
        state.history.branch_mut(branch).landed = landed.max(manifest.lsn);
        self.check_rest(&mut state, client, before.as_deref(), &manifest);
        state.landings += 1;
        self.check_references(&manifest, contents);
        self.mark_parts(before.as_deref(), &manifest, contents);
        self.check_reader_pins(&state, client, &manifest);
        let anew = state.history.branch(branch).begins_at == Some(manifest.lsn);
        let due = anew || state.landings.is_multiple_of(self.content_checks);
        let is_tombstone = matches!(
            manifest.state,
            ImageState::Tombstone | ImageState::Abandoned
        );
        if due && !is_tombstone && manifest.lsn >= state.history.branch(branch).durable_in_store {
            self.check_content(&state, branch, &manifest, contents);
        }
        self.journal.note(
            "store",
            format_args!(
                "LANDED version {} of {} by {client}: tenure {}, {}, LSN {}, {} segments",
                manifest.version,
                self.image,
                manifest.tenure.epoch,
                state_of(&manifest),
                manifest.lsn,
                manifest.segments.len()
            ),
        );
        let manifest = Arc::new(manifest);
        state.published.landed(&manifest, branch);
        state.note_own(client, &manifest);
        state.note_landed(client, manifest.lsn);
        state.newest = Some(manifest);
    }

    /// A server that has nothing new to publish compacts the map and cleans segments, and then
    /// publishes no more.
    fn check_rest(
        &self,
        state: &mut State,
        client: &str,
        before: Option<&Manifest>,
        manifest: &Manifest,
    ) {
        let tenure = state.servers.get(client).and_then(|it| it.tenure);
        let rests = before.is_some_and(|before| before.lsn == manifest.lsn);
        let same = before.is_some_and(|before| before.tenure == manifest.tenure);
        state.idle_publications = match (rests && same, tenure == Some(manifest.tenure.id)) {
            (true, true) => state.idle_publications + 1,
            (true, false) => state.idle_publications,
            (false, _) => 0,
        };
        self.journal.checked(11);
        if state.idle_publications > IDLE_PUBLICATIONS_MAX {
            self.journal.fail(
                "11 (liveness)",
                format_args!("{client} publishes without end, and nothing was committed"),
            );
        }
    }

    fn check_references(&self, manifest: &Manifest, contents: &MemoryObjectStore) {
        let segments = manifest.segments.iter().map(|it| (&it.name, it.size_bytes));
        let maps = manifest.maps.iter().map(|it| (&it.name, it.size_bytes));
        self.journal.checked(8);
        for (name, size) in segments.chain(maps) {
            let found = contents.peek(&name.key()).map(|body| body.len() as u64);
            if found != Some(size) {
                self.journal.fail(
                    "8 (landing)",
                    format_args!(
                        "version {} references {name} of {size} bytes, there are {found:?}",
                        manifest.version
                    ),
                );
            }
        }
    }

    /// Reads the whole image that the manifest publishes, and compares it with the history.
    fn check_content(
        &self,
        state: &State,
        branch: BranchId,
        manifest: &Manifest,
        contents: &MemoryObjectStore,
    ) {
        let copy = MemoryObjectStore::new();
        let segments = manifest.segments.iter().map(|it| it.name.key());
        for key in segments.chain(manifest.maps.iter().map(|it| it.name.key())) {
            let body = contents.peek(&key).expect("what is referenced was checked");
            copy.poke(&key, body);
        }
        let random = RandomStream::new(0, "landing oracle");
        let environment = Environment {
            clock: Arc::new(SimClock::new(&random, 0, Arc::default())),
            entropy: Arc::new(SeededEntropy::new(0)),
            spawner: Arc::new(InlineSpawner),
            objects: Arc::new(copy),
            buffers: Arc::new(MemoryBufferStores::new()),
        };
        let read = async {
            let host = Host::new(environment, CACHE_BYTES);
            let keys = ImageKeys::unwrap(&root_keys(), &manifest.image, &manifest.data_keys);
            let keys = Arc::new(keys.map_err(|error| error.to_string())?);
            let map = Map::open(manifest, Arc::clone(&host.leaves)).await;
            let map = map.map_err(|error| error.to_string())?;
            let view = View {
                lsn: manifest.lsn,
                size_bytes: manifest.size_bytes,
                page_size: manifest.page_size,
                generations: Vec::new(),
                map,
                guard: Arc::new(MapGuard(0)),
                frames: Arc::new(FrameReader::new(host.frames, manifest.page_size, keys)),
            };
            let mut read = Vec::new();
            for area in self.areas.byte_ranges() {
                let length = usize::try_from(area.end - area.start).expect("a small area");
                let content = view.read(area.start, length).await;
                let content = content.map_err(|error| error.to_string())?;
                read.push((area.start, content.into_bytes()));
            }
            self.check_gaps(&view).await?;
            Ok::<_, String>(read)
        };
        let Some(content) = read.now_or_never() else {
            self.journal
                .fail("8 (landing)", format_args!("reading what landed waits"));
        };
        let content = match content {
            Ok(content) => content,
            Err(error) => self.journal.fail(
                "8 (landing)",
                format_args!("version {} does not read well: {error}", manifest.version),
            ),
        };
        self.journal.mark("a landed version was read back whole");
        self.journal.checked(2);
        for (offset, bytes) in content {
            let lsn = manifest.lsn;
            if !self.holds(state, branch, lsn, &[], offset, &bytes) {
                let differs = self.first_difference(state, branch, lsn, offset, &bytes);
                self.journal.fail(
                    "2 (prefix)",
                    format_args!("version {} is not LSN {lsn}: {differs}", manifest.version),
                );
            }
        }
    }

    /// Nothing is where nobody writes: the map says so, and what it names is read here and there.
    async fn check_gaps(&self, view: &View) -> Result<(), String> {
        let page = self.page_size.bytes();
        for gap in self.areas.gaps(view.size_bytes) {
            let extents = view.extents(gap.clone(), None, 2).await;
            let extents = extents.map_err(|error| error.to_string())?;
            let first = extents.first().expect("there is something to say");
            let is_empty = !first.is_set && first.length_bytes == gap.end - gap.start;
            let last = gap.end - page as u64;
            let middle = self.page_size.page_of(gap.start.midpoint(gap.end));
            for offset in [gap.start, self.page_size.offset_of(middle), last] {
                let content = view.read(offset, page).await;
                let content = content.map_err(|error| error.to_string())?;
                if !is_empty || content.into_bytes().iter().any(|byte| *byte != 0) {
                    return Err(format!(
                        "there is something at {offset}, in {gap:?}, where nobody writes: \
                         {extents:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Model {
    /// The LSN that the newest manifest has.
    #[must_use]
    pub fn newest_lsn(&self) -> Option<Lsn> {
        self.state().newest.as_ref().map(|it| it.lsn)
    }

    /// Every version that is retained exists and reads as what it was (at most `versions_max`, the
    /// newest and those with names first).
    pub fn check_retained(&self, contents: &MemoryObjectStore, versions_max: usize) {
        let state = self.state();
        let Some(newest) = state.newest.clone() else {
            return;
        };
        if matches!(newest.state, ImageState::Tombstone | ImageState::Abandoned) {
            return;
        }
        let named = |version: Version| {
            version == newest.version
                || version < newest.oldest_retained
                || newest.snapshots.iter().any(|it| it.version == version)
        };
        let mut versions: Vec<_> = state.published.versions().collect();
        versions.sort_by_key(|it| !named(it.manifest.version));
        for landed in versions.into_iter().take(versions_max) {
            let manifest = &landed.manifest;
            if matches!(
                manifest.state,
                ImageState::Tombstone | ImageState::Abandoned
            ) {
                continue;
            }
            let key = manifest_key(&self.image, manifest.version);
            let stored = contents.peek(&key);
            let stored =
                stored.and_then(|it| Manifest::decode(&self.image, manifest.version, &it).ok());
            if stored.as_ref() != Some(manifest) {
                self.journal.fail(
                    "8 (collection)",
                    format_args!(
                        "version {} of {} is retained and is not there",
                        manifest.version, self.image
                    ),
                );
            }
            self.check_references(manifest, contents);
            self.check_content(&state, landed.branch, manifest, contents);
            if manifest.version < newest.oldest_retained {
                self.journal.mark("a snapshot was read back at the end");
            }
        }
    }
}
