//! A disk without room (D10): commits that met it wait at the head of the queue, and everybody behind
//! them; reads and checkpoints go on, and make room.
//!
//! Invariants: nobody is told that a commit happened before it is in the buffer store, which has
//! nothing of one that waits. While commits wait no other is composed and no lock is granted, so that
//! what was decided about them holds: a transaction was checked, and is over.

use std::time::Duration;

use super::stalled::Stalled;
use super::state::ImageTask;
use crate::engine::buffer::patient::ROOM_PAUSE;
use crate::engine::buffer_budget::BufferLimit;
use crate::engine::request::CommitRequest;

/// The log is told no more often: at a limit writes go on and wait in turns.
const TELL_EVERY: Duration = Duration::from_mins(1);

impl ImageTask {
    /// These commits, which were composed last, wait: the disk has no room for them.
    pub(super) fn wait_for_room(&mut self, requests: Vec<CommitRequest>, reason: &str) {
        self.note_held_up(BufferLimit::Disk, reason);
        self.room.retry_at = Some(self.now().after(ROOM_PAUSE));
        for request in requests.into_iter().rev() {
            let request = Stalled::Commit(request);
            self.stalled_bytes += request.bytes();
            self.stalled.push_front(request);
        }
    }

    /// The disk has no room for another generation.
    pub(super) fn put_off_seal(&mut self, reason: &str) {
        self.note_held_up(BufferLimit::Disk, reason);
        self.room.seal_at = Some(self.now().after(ROOM_PAUSE));
    }

    /// There is no room for a request or a generation.
    pub(super) fn note_held_up(&mut self, by: BufferLimit, reason: &str) {
        let now = self.now();
        if self.room.held_up.is_none_or(|(known, _)| known != by) {
            self.room.held_up = Some((by, now));
        }
        let told_at = self.room.told_at;
        if told_at.is_none_or(|at| now.since(at) >= TELL_EVERY) {
            self.room.told_at = Some(now);
            let limit = by.description();
            tracing::warn!(image = %self.shared.id, limit, reason, "no room for writes");
        }
    }

    /// A commit or a seal found room.
    pub(super) fn found_room(&mut self) {
        if let Some(held) = self.room.held_up(self.now()) {
            self.room.held_up = None;
            self.room.seal_at = None;
            let (limit, held_ms) = (held.by.description(), held.held.as_millis());
            tracing::debug!(image = %self.shared.id, limit, held_ms, "there is room again");
        }
    }
}
