//! Where each piece is: a map that may be lost, and may be wrong.

use std::io;

use crate::ids::PieceKey;

/// Where a piece's entry begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The slab.
    pub slab: u64,
    /// Where in it the entry's header is.
    pub offset: u32,
    /// The piece's length, without the header.
    pub bytes: u32,
}

/// Names of pieces and their places. What it says is a hint: an entry's header has the last word.
/// So it need not survive anything, and nothing of it is synced.
///
/// Calls may wait for the disk.
pub trait CacheIndex: Send + Sync + 'static {
    /// Random, made with the index: slabs of another index are not described by this one.
    fn identity(&self) -> u64;

    /// How many places it has.
    fn entries(&self) -> u64;

    /// Where the piece is.
    ///
    /// # Errors
    /// What the system says.
    fn get(&self, key: &PieceKey) -> io::Result<Option<Place>>;

    /// Takes note of new places, and forgets those without one. It has so many `entries` then.
    ///
    /// # Errors
    /// What the system says; any of the changes may have been made.
    fn apply(&self, changes: &[(PieceKey, Option<Place>)], entries: u64) -> io::Result<()>;

    /// It failed, and its slabs are gone: the next opening makes a new one.
    fn discard(&self);
}

#[cfg(any(test, feature = "conformance"))]
pub use memory::MemoryIndex;

#[cfg(any(test, feature = "conformance"))]
mod memory {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Places in memory. Clones are the same index, which outlives processes.
    #[derive(Clone)]
    pub struct MemoryIndex {
        identity: u64,
        places: Arc<Mutex<BTreeMap<PieceKey, Place>>>,
        /// Changes that it takes before it fails for good.
        changes_left: Arc<AtomicU64>,
    }

    impl MemoryIndex {
        /// An empty index of this identity.
        #[must_use]
        pub fn new(identity: u64) -> Self {
            Self {
                identity,
                places: Arc::default(),
                changes_left: Arc::new(AtomicU64::new(u64::MAX)),
            }
        }

        /// It fails after so many changes, until it is discarded.
        pub fn fail_after(&self, changes: u64) {
            self.changes_left.store(changes, Ordering::Relaxed);
        }

        fn check(&self) -> io::Result<()> {
            match self.changes_left.load(Ordering::Relaxed) {
                0 => Err(io::Error::other("the index has failed")),
                _ => Ok(()),
            }
        }

        /// All that it says.
        #[must_use]
        pub fn places(&self) -> BTreeMap<PieceKey, Place> {
            let places = self.places.lock();
            places.expect("nobody panics with this lock").clone()
        }

        /// It says this from now on: an old copy, or nonsense.
        pub fn restore(&self, places: BTreeMap<PieceKey, Place>) {
            *self.places.lock().expect("nobody panics with this lock") = places;
        }
    }

    impl CacheIndex for MemoryIndex {
        fn identity(&self) -> u64 {
            self.identity
        }

        fn entries(&self) -> u64 {
            self.places().len() as u64
        }

        fn get(&self, key: &PieceKey) -> io::Result<Option<Place>> {
            self.check()?;
            let places = self.places.lock().expect("nobody panics with this lock");
            Ok(places.get(key).copied())
        }

        fn discard(&self) {
            self.restore(BTreeMap::new());
            self.fail_after(u64::MAX);
        }

        fn apply(&self, changes: &[(PieceKey, Option<Place>)], _entries: u64) -> io::Result<()> {
            self.check()?;
            if self.changes_left.load(Ordering::Relaxed) < u64::MAX {
                self.changes_left.fetch_sub(1, Ordering::Relaxed);
            }
            let mut places = self.places.lock().expect("nobody panics with this lock");
            for (key, place) in changes {
                match place {
                    Some(place) => places.insert(*key, *place),
                    None => places.remove(key),
                };
            }
            Ok(())
        }
    }
}
