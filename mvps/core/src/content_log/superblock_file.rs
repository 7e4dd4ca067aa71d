//! The superblock while a store is open: what it is to say, and the writes of its slots.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::block::StoreId;
use super::superblock::{MARK_OFFSET, Superblock, encode_mark};
use crate::env::File;
use crate::ids::ImageId;
use crate::mutant::is;

/// The superblock of an open store. Locks are taken in the order of the fields.
pub struct SuperblockFile {
    image: ImageId,
    file: Arc<dyn File>,
    /// Held while a slot is written.
    slots: Mutex<()>,
    /// What it is to say next.
    state: Mutex<Superblock>,
    /// The sequence number of the newest slot that was synced.
    synced: AtomicU64,
}

impl SuperblockFile {
    /// The superblock as an opening left it, synced.
    #[must_use]
    pub fn new(image: ImageId, file: Arc<dyn File>, superblock: Superblock) -> Self {
        Self {
            image,
            file,
            slots: Mutex::default(),
            synced: AtomicU64::new(superblock.sequence),
            state: Mutex::new(superblock),
        }
    }

    /// What it is to say.
    pub fn state(&self) -> MutexGuard<'_, Superblock> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sequence number of the newest slot that was synced.
    #[must_use]
    pub fn synced(&self) -> u64 {
        self.synced.load(Ordering::Acquire)
    }

    /// Notes that every block up to `synced` was synced, for whoever opens the store after a kill.
    pub fn mark(&self, synced: u64) {
        write_mark(&*self.file, &self.image, self.state().store, synced);
    }

    /// Writes what it is to say now, in the slot that does not hold the newest state, and syncs it.
    /// Waits for the disk.
    ///
    /// # Errors
    /// What the system says. The store must not be written to any more, unless there was no room
    /// ([`crate::env::is_want_of_room`]).
    pub fn write(&self) -> io::Result<()> {
        let _slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let superblock = {
            let state = self.state();
            let skipped = u64::from(is("a superblock's slot is written over"));
            Superblock {
                sequence: state.sequence + 1 + skipped,
                ..state.clone()
            }
        };
        let bytes = superblock.encode(&self.image)?;
        let file = &self.file;
        file.write_at(superblock.offset(), &[io::IoSlice::new(&bytes)])?;
        // A failed sync is no want of room, whatever it says.
        file.sync().map_err(io::Error::other)?;
        self.state().sequence = superblock.sequence;
        self.synced.store(superblock.sequence, Ordering::Release);
        Ok(())
    }
}

/// Notes in a superblock's file that every block of `store` up to `synced` was synced.
pub fn write_mark(file: &dyn File, image: &ImageId, store: StoreId, synced: u64) {
    let mark = encode_mark(image, store, synced);
    // Without it less is known, and nothing wrong.
    let _ = file.write_at(MARK_OFFSET, &[io::IoSlice::new(&mark)]);
}
