//! Themes: what a seed is about.
//!
//! Some situations need several rare things at once (a superseded server that stays busy; reads
//! that checkpoints overtake; a collector, long transactions and a server that is cut off). Half of
//! the seeds draw everything by themselves, the others make one such coincidence likely.

use crate::random::RandomStream;

/// The theme of a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Focus {
    /// Nothing in particular.
    Anything,
    /// Disks fail, and clients ask for durability.
    Disk,
    /// Everything at once: many who work on history, and requests that are late, lost, or stopped
    /// half way.
    Harsh,
    /// Servers are superseded and stay busy.
    Superseded,
    /// Partial writes of pages that checkpoints move meanwhile.
    Patches,
    /// Collectors, old views, and servers that are away for a while.
    Collection,
    /// Transactions that meet each other.
    Isolation,
    /// Bytes are damaged on their way.
    Damage,
    /// Images are closed, and go on elsewhere.
    Moving,
    /// Processes stop dead at calls of their environment.
    Crashes,
    /// The store ignores conditions.
    Unconditional,
    /// The store's listings are behind.
    StaleListings,
}

impl Focus {
    pub(super) fn draw(random: &RandomStream) -> Self {
        let weights = [30, 6, 10, 8, 7, 12, 7, 6, 6, 6, 1, 1];
        [
            Self::Anything,
            Self::Disk,
            Self::Harsh,
            Self::Superseded,
            Self::Patches,
            Self::Collection,
            Self::Isolation,
            Self::Damage,
            Self::Moving,
            Self::Crashes,
            Self::Unconditional,
            Self::StaleListings,
        ][random.weighted(&weights)]
    }
}
