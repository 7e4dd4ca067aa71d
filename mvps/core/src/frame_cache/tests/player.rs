//! A cache in a test, and pieces that verify themselves as frames do.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::env::memory::{MemoryFiles, SeededEntropy};
use crate::env::{Files, FrameCache};
use crate::frame_cache::{CacheIndex, CacheOpenError, MemoryIndex, SlabCache, SlabCacheSettings};
use crate::ids::{ObjectSequence, PieceKey};

/// A slab of the tests has room for 15 pieces of [`PIECE_BYTES`].
pub const SLAB_BYTES: u64 = 16 << 10;
pub const PIECE_BYTES: usize = 1000;
/// Ten slabs, and half a one for what is being moved.
pub const LIMIT_BYTES: u64 = 11 * SLAB_BYTES;

pub fn key(number: u64) -> PieceKey {
    PieceKey {
        suffix: number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        sequence: ObjectSequence(number),
        offset: 64 * (number % 7),
    }
}

fn seed(key: PieceKey) -> u64 {
    key.suffix ^ key.sequence.0.rotate_left(32) ^ key.offset.rotate_left(16)
}

/// Content of so many bytes, at least 8, that begins with its checksum.
pub fn piece(key: PieceKey, length: usize) -> Bytes {
    let content: Vec<u8> = (8..length).map(|at| at as u8 ^ key.suffix as u8).collect();
    let sum = xxh3_64_with_seed(&content, seed(key));
    [&sum.to_le_bytes()[..], &content].concat().into()
}

/// Whether it is what was put under `key`.
pub fn verifies(key: PieceKey, piece: &[u8]) -> bool {
    let sum = piece.get(8..).map(|it| xxh3_64_with_seed(it, seed(key)));
    sum.is_some_and(|sum| piece[..8] == sum.to_le_bytes())
}

/// What comes of a call on a disk that does not wait.
pub fn now<T>(call: impl Future<Output = T>) -> T {
    call.now_or_never().expect("it does not wait")
}

pub fn open_on(
    files: Arc<dyn Files>,
    index: &MemoryIndex,
    limit_bytes: u64,
) -> Result<SlabCache, CacheOpenError> {
    let settings = SlabCacheSettings {
        folder: "slabs".to_owned(),
        limit_bytes,
        slab_bytes: SLAB_BYTES,
    };
    let entropy = Arc::new(SeededEntropy::new(index.places().len() as u64));
    let index: Arc<dyn CacheIndex> = Arc::new(index.clone());
    now(SlabCache::open(files, entropy, settings, move || {
        Ok(Arc::clone(&index))
    }))
}

/// A disk, an index, and the cache on them.
pub struct Player {
    pub files: MemoryFiles,
    pub index: MemoryIndex,
    pub cache: Option<SlabCache>,
}

impl Default for Player {
    fn default() -> Self {
        let (files, index) = (MemoryFiles::new(), MemoryIndex::new(7));
        let cache = open_on(Arc::new(files.clone()), &index, LIMIT_BYTES);
        let cache = Some(cache.expect("an empty disk"));
        Self {
            files,
            index,
            cache,
        }
    }
}

impl Player {
    pub fn cache(&self) -> &SlabCache {
        self.cache.as_ref().expect("it is open")
    }

    /// Closes the cache and opens it again.
    pub fn reopen(&mut self) {
        self.cache = None;
        let opened = open_on(Arc::new(self.files.clone()), &self.index, LIMIT_BYTES);
        self.cache = Some(opened.unwrap_or_else(|error| panic!("it opens: {error}")));
    }

    pub fn put(&self, number: u64) {
        let key = key(number);
        self.cache().put(key, piece(key, PIECE_BYTES));
    }

    pub fn put_all(&self, numbers: std::ops::Range<u64>) {
        numbers.for_each(|number| self.put(number));
    }

    /// What the cache has, verified as the engine does: what is wrong is removed.
    #[track_caller]
    pub fn get(&self, number: u64) -> bool {
        let key = key(number);
        match now(self.cache().get(key)) {
            None => false,
            Some(found) if verifies(key, &found) => true,
            Some(_) => {
                self.cache().remove(key);
                assert_eq!(now(self.cache().get(key)), None, "it was removed");
                false
            }
        }
    }

    /// How many of these are there.
    #[track_caller]
    pub fn there(&self, numbers: std::ops::Range<u64>) -> usize {
        numbers.filter(|number| self.get(*number)).count()
    }

    /// Asks for what must be right or not there: the disk did no damage to what was kept.
    #[track_caller]
    pub fn check(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let found = now(self.cache().get(key(number)));
            let right = found.is_none_or(|found| verifies(key(number), &found));
            assert!(right, "wrong bytes for {number}");
        }
        self.check_room();
    }

    #[track_caller]
    pub fn check_room(&self) {
        let usage = self.cache().usage();
        assert!(usage.bytes <= usage.limit_bytes, "{usage:?}");
        let paths = self.files.paths("slabs");
        let length = |path: &String| self.files.contents(path).map_or(0, |it| it.len() as u64);
        let on_disk: u64 = paths.iter().map(length).sum();
        assert!(on_disk <= usage.limit_bytes, "{on_disk}: {paths:?}");
    }
}
