//! What may land in the object store, checked at the instant it lands: fencing (oracle 7), that a
//! manifest's references exist and hold the right bytes (2, 8), names written once (9).

use std::sync::Arc;

use futures_util::FutureExt;
use mvps_core::encryption::ImageKeys;
use mvps_core::engine::Host;
use mvps_core::engine::frame_reader::FrameReader;
use mvps_core::engine::map::Map;
use mvps_core::engine::view::{MapGuard, View};
use mvps_core::env::Environment;
use mvps_core::env::memory::{MemoryBufferStores, MemoryObjectStore, SeededEntropy};
use mvps_core::format::manifest::{Manifest, Office};
use mvps_core::format::object_name::{ObjectName, manifests_prefix, parse_manifest_key};
use mvps_core::ids::{Lsn, Version};
use xxhash_rust::xxh3::xxh3_64;

use super::history::BranchId;
use super::{Model, State};
use crate::draws::Draws;
use crate::journal;
use crate::plan::root_keys;
use crate::world::clock::SimClock;
use crate::world::objects::LandingOracle;
use crate::world::request::Request;
use crate::world::spawner::InlineSpawner;

/// Room for everything that one check reads.
const CACHE_BYTES: u64 = 64 << 20;

impl LandingOracle for Model {
    fn landed(&self, client: &str, request: &Request, contents: &MemoryObjectStore) {
        match request {
            Request::Create(key, body) => match parse_manifest_key(key) {
                Ok((image, version)) => {
                    let first = contents.first_key(&manifests_prefix(&image));
                    if first.as_deref() != Some(key) {
                        self.journal.mark("a manifest landed below the newest");
                        return;
                    }
                    let manifest =
                        Manifest::decode(&image, version, body).unwrap_or_else(|error| {
                            self.journal.fail(
                                "8 (landing)",
                                format_args!("{key} does not decode: {error}"),
                            )
                        });
                    self.published(client, manifest, contents);
                }
                Err(_) => self.object_landed(client, key, contents),
            },
            Request::Put(key, _) | Request::CompleteUpload(key, ..) => {
                self.object_landed(client, key, contents);
            }
            Request::Delete(keys) => {
                for key in keys {
                    self.deleted(client, key);
                }
            }
            Request::AbortUpload(key, _) => self.aborted(client, key),
            _ => {}
        }
    }

    fn missing(&self, client: &str, key: &str) {
        if ObjectName::parse(key).is_err() {
            return;
        }
        let state = self.state();
        let tenure = state.servers.get(client).and_then(|it| it.tenure);
        let newest = state.newest.as_ref().map(|it| it.tenure.id);
        if tenure.is_some() && tenure == newest {
            self.journal.fail(
                "8 (collection)",
                format_args!("{client} is in office and does not find {key}"),
            );
        }
    }

    fn trouble(&self, client: &str) {
        Model::trouble(self, client);
    }

    fn damaged(&self) {
        Model::damaged(self);
    }
}

impl Model {
    fn object_landed(&self, client: &str, key: &str, contents: &MemoryObjectStore) {
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

    /// Checks that nothing that is newest, or retained by it, needs what was deleted.
    fn deleted(&self, client: &str, key: &str) {
        let state = self.state();
        let Some(newest) = &state.newest else { return };
        self.journal.checked(8);
        let needed = match parse_manifest_key(key) {
            Ok((_, version)) => version >= newest.oldest_retained,
            Err(_) => ObjectName::parse(key).is_ok_and(|name| {
                let retired = newest.retired.iter().any(|it| it.name == name);
                retired
                    || newest.segments.iter().any(|it| it.name == name)
                    || newest.maps.iter().any(|it| it.name == name)
            }),
        };
        if needed {
            self.journal.fail(
                "8 (collection)",
                format_args!("{client} deleted {key}, which is needed"),
            );
        }
    }

    /// An upload may be aborted when the object that it would make may be deleted (protocol §4.1).
    fn aborted(&self, client: &str, key: &str) {
        let state = self.state();
        let (Some(newest), Ok(name)) = (&state.newest, ObjectName::parse(key)) else {
            return;
        };
        self.journal.checked(8);
        self.journal.mark("an orphan upload was aborted");
        let epoch = newest.tenure.epoch;
        if name.epoch > epoch || name.epoch == epoch && name.sequence >= newest.watermark {
            self.journal.fail(
                "8 (collection)",
                format_args!("{client} aborted the upload of {key}, which may be in use"),
            );
        }
    }

    fn published(&self, client: &str, manifest: Manifest, contents: &MemoryObjectStore) {
        let mut state = self.state();
        let before = state.newest.take();
        let branch = self.check_tenure(&mut state, client, before.as_ref(), &manifest);
        let landed = state.history.branch(branch).landed;
        if let Some(before) = &before {
            if manifest.version != before.version.next() || manifest.lsn < before.lsn {
                self.journal.fail(
                    "7 (fencing)",
                    format_args!(
                        "version {} at LSN {} follows version {} at LSN {}",
                        manifest.version, manifest.lsn, before.version, before.lsn
                    ),
                );
            }
            if manifest.size_bytes < before.size_bytes {
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
        state.landings += 1;
        self.check_references(&manifest, contents);
        let due = state.landings.is_multiple_of(self.content_checks);
        if due && manifest.lsn >= state.history.branch(branch).durable_in_store {
            self.check_content(&state, branch, &manifest, contents);
        }
        self.journal.note(
            "store",
            format_args!(
                "LANDED version {} by {client}: tenure {}, {:?}, LSN {}, {} segments",
                manifest.version,
                manifest.tenure.epoch,
                manifest.office,
                manifest.lsn,
                manifest.segments.len()
            ),
        );
        state.newest = Some(manifest);
    }

    /// Checks who publishes, and returns the history that this continues.
    fn check_tenure(
        &self,
        state: &mut State,
        client: &str,
        before: Option<&Manifest>,
        manifest: &Manifest,
    ) -> BranchId {
        let tenure = manifest.tenure;
        self.journal.checked(7);
        if let Some(branch) = state.tenures.get(&tenure.id) {
            if state.superseded.contains_key(&tenure.id)
                || before.is_some_and(|it| it.tenure != tenure)
            {
                self.journal.fail(
                    "7 (fencing)",
                    format_args!("{client} published under {tenure}, which was superseded"),
                );
            }
            if before.is_some_and(|it| it.publication > manifest.publication) {
                self.journal.fail(
                    "7 (fencing)",
                    format_args!("{client}: the publication counter went back"),
                );
            }
            return *branch;
        }
        if before.is_some_and(|it| it.tenure.epoch >= tenure.epoch) {
            self.journal.fail(
                "7 (fencing)",
                format_args!("{client} began {tenure}, which is not above the last epoch"),
            );
        }
        let branch = self.begin_tenure(state, client, before, manifest);
        state.tenures.insert(tenure.id, branch);
        if let Some(server) = state.servers.get(client) {
            state.begun_by.insert(tenure.id, server.disk_at_start);
        }
        if let Some(before) = before {
            state.superseded.insert(before.tenure.id, journal::now());
        }
        branch
    }

    fn begin_tenure(
        &self,
        state: &mut State,
        client: &str,
        before: Option<&Manifest>,
        manifest: &Manifest,
    ) -> BranchId {
        let Some(before) = before else {
            return state.history.fork(None);
        };
        let continued = state.tenures[&before.tenure.id];
        if manifest.office == Office::Clean && manifest.takeovers.len() > before.takeovers.len() {
            self.journal.mark("a takeover landed");
            return continued;
        }
        let disk = state.servers.get(client).map(|it| it.disk_at_start);
        let own = state.servers.get(client).and_then(|it| it.branch_at_start);
        // A process may have died between its open publication and the end of its opening.
        if own == Some(continued) || disk == state.begun_by.get(&before.tenure.id).copied() {
            return continued;
        }
        // Nothing was committed since this disk was deposed: it was adopted.
        let branch = state.history.canonical(continued, before.lsn);
        if own == Some(branch) {
            return branch;
        }
        // Somebody else's history: everything of it must be published, or its loss declared.
        let left = state.history.branch(branch);
        let declared = before
            .takeovers
            .last()
            .is_some_and(|takeover| takeover.at_lsn == before.lsn);
        let lost = left.acknowledged > before.lsn;
        if before.office != Office::Clean {
            self.journal.fail(
                "2 (loss)",
                format_args!(
                    "{client} opened an image that {} has in office",
                    before.tenure
                ),
            );
        }
        if lost && !declared || left.durable_in_store > before.lsn {
            self.journal.fail(
                "2 (loss)",
                format_args!(
                    "{client} continues from LSN {}, but {} was acknowledged and {} is promised",
                    before.lsn, left.acknowledged, left.durable_in_store
                ),
            );
        }
        if lost {
            self.journal.mark("a takeover gave up acknowledged commits");
        }
        state.history.fork(Some((branch, before.lsn)))
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
        let draws = Draws::new(0, "landing oracle");
        let environment = Environment {
            clock: Arc::new(SimClock::new(&draws, 0, Arc::default())),
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
            let length = usize::try_from(manifest.size_bytes).expect("a small image");
            let content = view.read(0, length).await;
            content.map_err(|error| error.to_string())
        };
        let Some(content) = read.now_or_never() else {
            self.journal
                .fail("8 (landing)", format_args!("reading what landed waits"));
        };
        let content = match content {
            Ok(content) => content.into_bytes(),
            Err(error) => self.journal.fail(
                "8 (landing)",
                format_args!("version {} cannot be read: {error}", manifest.version),
            ),
        };
        self.journal.mark("a landed version was read back whole");
        self.journal.checked(2);
        for page in 0..self.pages {
            let size = self.page_size.bytes();
            let at = usize::try_from(page).expect("small") * size;
            let got = super::content::normal(content.slice(at..at + size));
            if got != state.history.page(branch, manifest.lsn, page) {
                let differs = self.first_difference(state, branch, manifest.lsn, 0, &content);
                self.journal.fail(
                    "2 (prefix)",
                    format_args!(
                        "version {} is not LSN {}: {differs}",
                        manifest.version, manifest.lsn
                    ),
                );
            }
        }
    }
}

/// The LSN of the newest manifest.
impl Model {
    /// The LSN that the newest manifest has.
    #[must_use]
    pub fn newest_lsn(&self) -> Option<Lsn> {
        self.state().newest.as_ref().map(|it| it.lsn)
    }
}
