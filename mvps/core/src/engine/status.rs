//! How an open image is doing, for operators.

use std::time::Duration;

use super::buffer_budget::BufferLimit;
use super::error::EngineError;
use super::publisher::SpaceStatus;
use crate::ids::{Lsn, Tenure, Version};

/// A picture of an open image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageStatus {
    /// The last commit.
    pub lsn: Lsn,
    /// Commits up to this one survive a power cut.
    pub synced_lsn: Lsn,
    /// The newest published version, as far as this server knows.
    pub version: Version,
    /// Commits up to this one are in that version.
    pub published_lsn: Lsn,
    /// The image's size in bytes.
    pub size_bytes: u64,
    /// Bytes that the buffer store takes on the local disk.
    pub buffer_disk_bytes: u64,
    /// Bytes of records that wait for a checkpoint.
    pub buffered_bytes: u64,
    /// Sealed generations that wait for their checkpoint.
    pub sealed_generations: usize,
    /// Open transactions.
    pub transactions: usize,
    /// Writes and locks that wait for the lock or for room.
    pub stalled: usize,
    /// What holds writes up for want of room, if something does.
    pub held_up: Option<HeldUp>,
    /// Whether a checkpoint or another publication is under way.
    pub publishing: bool,
    /// What is in object storage, and how cleaning goes.
    pub space: SpaceStatus,
    /// This server's tenure.
    pub tenure: Tenure,
    /// Why the image takes no more writes, if it does not.
    pub failure: Option<EngineError>,
}

/// What holds writes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldUp {
    /// The limit.
    pub by: BufferLimit,
    /// For how long it has.
    pub held: Duration,
}

impl ImageStatus {
    /// Whether publishing and cleaning have come to rest, or never will.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let rests = !self.publishing && self.sealed_generations == 0 && !self.space.cleaning_due;
        rests || self.failure.is_some()
    }
}
