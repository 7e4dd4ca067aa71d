//! A bounded cache of decoded pieces of immutable objects: frames and leaves.
//!
//! Job: answer hits without awaiting or allocating, within a limit of bytes. Objects are never
//! written twice and their names are random, so an entry is never stale, images may share one
//! cache, and a clone finds what its parent read.
//!
//! Must never: depend on a random seed or a clock. The same calls evict the same entries, so that
//! the simulation repeats.

use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use crate::ids::PieceKey;

/// Independently locked parts of a cache: more than the cores that serve reads at the same time on
/// the machines this is for. A fixed number, because the default one asks the machine.
const SHARDS: usize = 8;

/// What an entry takes beyond its content: key, links, reference counts.
const ENTRY_OVERHEAD_BYTES: u64 = 128;

/// How much memory a cached value takes.
pub trait Footprint {
    /// In bytes.
    fn footprint_bytes(&self) -> u64;
}

#[derive(Clone)]
struct ByFootprint;

impl<V: Footprint> Weighter<PieceKey, Arc<V>> for ByFootprint {
    fn weight(&self, _key: &PieceKey, value: &Arc<V>) -> u64 {
        ENTRY_OVERHEAD_BYTES + value.footprint_bytes()
    }
}

type FixedHash = BuildHasherDefault<DefaultHasher>;
type Pieces<V> =
    Cache<PieceKey, Arc<V>, ByFootprint, FixedHash, DefaultLifecycle<PieceKey, Arc<V>>>;

/// Decoded pieces of objects in memory, up to a limit in bytes.
pub struct ObjectCache<V: Footprint> {
    pieces: Pieces<V>,
}

impl<V: Footprint> ObjectCache<V> {
    /// A cache of at most `limit_bytes`, for values of about `typical_bytes` each.
    #[must_use]
    pub fn new(limit_bytes: u64, typical_bytes: u64) -> Self {
        let entries = limit_bytes / (typical_bytes + ENTRY_OVERHEAD_BYTES);
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .estimated_items_capacity(usize::try_from(entries).unwrap_or(usize::MAX).max(1))
            .weight_capacity(limit_bytes)
            .build()
            .expect("both capacities are given");
        let lifecycle = DefaultLifecycle::default();
        Self {
            pieces: Cache::with_options(options, ByFootprint, FixedHash::default(), lifecycle),
        }
    }

    /// The piece, if it is here.
    #[must_use]
    pub fn get(&self, key: &PieceKey) -> Option<Arc<V>> {
        self.pieces.get(key)
    }

    /// The piece, if it is here, without counting as a use of it.
    #[must_use]
    pub fn peek(&self, key: &PieceKey) -> Option<Arc<V>> {
        self.pieces.peek(key)
    }

    /// Keeps a piece, and lets go of others if there is no room.
    pub fn insert(&self, key: PieceKey, value: Arc<V>) {
        self.pieces.insert(key, value);
    }

    /// What the entries take together.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.pieces.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::object_name::{ObjectKind, ObjectName};
    use crate::ids::{EpochNumber, ImageId, Incarnation, ObjectSequence};

    struct Piece(u64);

    impl Footprint for Piece {
        fn footprint_bytes(&self) -> u64 {
            self.0
        }
    }

    fn key(sequence: u64, offset: u64) -> PieceKey {
        let object = ObjectName {
            image: ImageId::parse("disk0").unwrap(),
            incarnation: Incarnation(1),
            epoch: EpochNumber(1),
            sequence: ObjectSequence(sequence),
            suffix: 7,
            kind: ObjectKind::Segment,
        };
        object.piece_key(offset)
    }

    #[test]
    fn the_limit_holds_and_a_repetition_keeps_the_same_entries() {
        let limit_bytes = 1 << 20;
        let run = || {
            let cache = ObjectCache::new(limit_bytes, 4096);
            for number in 0..10_000_u64 {
                cache.insert(key(number % 700, number), Arc::new(Piece(4096)));
                let _ = cache.get(&key(number % 300, number / 2));
                assert!(cache.used_bytes() <= limit_bytes);
            }
            let present = |number: &u64| cache.peek(&key(number % 700, *number)).is_some();
            (0..10_000_u64).filter(present).collect::<Vec<_>>()
        };
        let first = run();
        assert!(first.len() > 100, "{} entries", first.len());
        assert_eq!(first, run());
    }

    #[test]
    fn a_piece_larger_than_the_cache_is_not_kept() {
        let cache = ObjectCache::new(1 << 16, 4096);
        cache.insert(key(1, 0), Arc::new(Piece(1 << 20)));
        assert!(cache.get(&key(1, 0)).is_none());
    }
}
