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
}

#[cfg(any(test, feature = "conformance"))]
pub use memory::MemoryIndex;

#[cfg(any(test, feature = "conformance"))]
mod memory {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Places in memory. Clones are the same index, which outlives processes.
    #[derive(Clone)]
    pub struct MemoryIndex {
        identity: u64,
        places: Arc<Mutex<BTreeMap<PieceKey, Place>>>,
    }

    impl MemoryIndex {
        /// An empty index of this identity.
        #[must_use]
        pub fn new(identity: u64) -> Self {
            Self {
                identity,
                places: Arc::default(),
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
            let places = self.places.lock().expect("nobody panics with this lock");
            Ok(places.get(key).copied())
        }

        fn apply(&self, changes: &[(PieceKey, Option<Place>)], _entries: u64) -> io::Result<()> {
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
