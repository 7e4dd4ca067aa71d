//! A machine's disk cache: the production code on files that forget, below whatever process runs.
//!
//! It is lost, rots, and is described by an index that is old or wrong. No oracle excuses anything for
//! that: a cache that is wrong may cost a request, and nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use madsim::runtime::NodeHandle;
use mvps_core::env::memory::{Crash, MemoryFiles};
use mvps_core::env::{Entropy, EntropyExt, FrameCache, FrameCacheUsage};
use mvps_core::frame_cache::{CacheIndex, MemoryIndex, Place, SlabCache, SlabCacheSettings};
use mvps_core::ids::PieceKey;

use super::disk::SlowFiles;
use crate::journal::Journal;
use crate::random::RandomStream;

/// A handful of slabs, so that room is made.
const LIMIT_BYTES: u64 = 1 << 20;
const SLAB_BYTES: u64 = 128 << 10;

/// The folder of the slabs.
const FOLDER: &str = "slabs";

/// Bytes that rot at once.
const ROTTEN_BYTES: usize = 64;

/// Survives every process. Clones are the same one.
#[derive(Clone)]
pub struct CacheDisk(Arc<Mutex<State>>);

struct State {
    files: MemoryFiles,
    index: MemoryIndex,
    /// What the index said before the last crash.
    earlier: BTreeMap<PieceKey, Place>,
}

/// What a process of a machine needs to open the cache.
pub struct Opener<'a> {
    /// Its name.
    pub server: &'a str,
    /// Where its tasks run.
    pub node: &'a NodeHandle,
    /// How long the disk takes at most.
    pub longest: Duration,
    /// Where it is noted.
    pub journal: &'a Journal,
}

impl Default for CacheDisk {
    /// An empty one.
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            files: MemoryFiles::new(),
            index: MemoryIndex::new(1),
            earlier: BTreeMap::new(),
        })))
    }
}

impl CacheDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics under it")
    }

    /// The cache as a process finds it; none if it cannot be opened.
    pub async fn open(&self, by: Opener<'_>, random: RandomStream) -> Option<Arc<dyn FrameCache>> {
        let entropy = mvps_core::env::memory::SeededEntropy::new(random.bits());
        let (files, index) = {
            let state = self.state();
            (state.files.clone(), state.index.clone())
        };
        let files = SlowFiles {
            files,
            node: Some(by.node.clone()),
            random: Arc::new(random),
            longest: by.longest,
        };
        let settings = SlabCacheSettings {
            folder: FOLDER.to_owned(),
            limit_bytes: LIMIT_BYTES,
            slab_bytes: SLAB_BYTES,
        };
        let index = move || -> std::io::Result<Arc<dyn CacheIndex>> { Ok(Arc::new(index.clone())) };
        let opened = SlabCache::open(Arc::new(files), Arc::new(entropy), settings, index).await;
        let cache = opened.ok()?;
        Some(Arc::new(WatchedCache {
            cache,
            server: by.server.to_owned(),
            journal: by.journal.clone(),
        }))
    }

    /// The process that had it has ended; what the next one finds is not all that it left.
    pub fn crash(&self, crash: Crash, entropy: &dyn Entropy) {
        let mut state = self.state();
        state.files.crash(crash, entropy);
        let said = state.index.places();
        match entropy.below(7) {
            0 => {
                let earlier = state.earlier.clone();
                state.index.restore(earlier);
            }
            1 => state.index.restore(mixed_up(&said)),
            2 => state.index = MemoryIndex::new(entropy.u64()),
            3 => rot(&state.files, entropy),
            4 => state.index.fail_after(entropy.below(20)),
            _ => {}
        }
        state.earlier = said;
    }
}

/// Every place is said of the next piece.
fn mixed_up(places: &BTreeMap<PieceKey, Place>) -> BTreeMap<PieceKey, Place> {
    let moved = places.values().cycle().skip(1);
    let pairs = places.keys().zip(moved);
    pairs.map(|(key, place)| (*key, *place)).collect()
}

/// Some bytes of a slab are others, and another one is cut.
fn rot(files: &MemoryFiles, entropy: &dyn Entropy) {
    for path in files.paths(FOLDER) {
        let length = files.contents(&path).map_or(0, |it| it.len() as u64);
        match entropy.below(4) {
            0 => {
                let mut bytes = [0; ROTTEN_BYTES];
                entropy.fill(&mut bytes);
                files.overwrite(&path, entropy.below(length.max(1)), &bytes);
            }
            1 => files.truncate(&path, entropy.below(length.max(1))),
            _ => {}
        }
    }
}

/// A cache whose use is noted.
struct WatchedCache {
    cache: SlabCache,
    server: String,
    journal: Journal,
}

#[async_trait]
impl FrameCache for WatchedCache {
    async fn get(&self, key: PieceKey) -> Option<Bytes> {
        let found = self.cache.get(key).await;
        if found.is_some() {
            self.journal.mark("a piece came from the disk cache");
        }
        found
    }

    fn put(&self, key: PieceKey, piece: Bytes) {
        self.cache.put(key, piece);
    }

    fn remove(&self, key: PieceKey) {
        self.journal
            .fault(&self.server, "disk cache: damaged piece");
        self.cache.remove(key);
    }

    fn limit_to(&self, bytes: u64) {
        self.cache.limit_to(bytes);
    }

    async fn settled(&self) {
        self.cache.settled().await;
    }

    fn usage(&self) -> FrameCacheUsage {
        self.cache.usage()
    }
}
