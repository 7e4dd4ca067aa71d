//! A disk without room (D10): the group of commits that met it waits here, whole, and everybody
//! behind it; reads and checkpoints go on, and make room.
//!
//! Invariants: at most one group waits, and no other commit is composed or carried out before it;
//! nobody is told that it is committed before it is. It may still be refused as a whole, since the
//! buffer store has nothing of it.

use std::time::Duration;

use tokio::sync::oneshot;

use super::commit::Group;
use super::state::ImageTask;
use crate::engine::buffer::patient::ROOM_PAUSE;
use crate::engine::disk_budget::BufferLimit;
use crate::engine::error::EngineError;
use crate::engine::status::HeldUp;
use crate::env::Moment;

/// What waits for room on the buffer store's disk.
#[derive(Default)]
pub(super) struct Room {
    group: Option<Group>,
    /// Want to know that nothing of a revoked connection takes effect any more.
    barriers: Vec<oneshot::Sender<()>>,
    /// When the group's turn comes again.
    retry_at: Option<Moment>,
    /// Not before this moment can a generation be sealed.
    seal_at: Option<Moment>,
    /// What has held writes up since when.
    held_up: Option<(BufferLimit, Moment)>,
    /// When the log was told of it last.
    told_at: Option<Moment>,
}

/// The log is told no more often: at a limit writes go on and wait in turns.
const TELL_EVERY: Duration = Duration::from_mins(1);

impl Room {
    /// Whether commits wait for it.
    pub(super) fn is_awaited(&self) -> bool {
        self.group.is_some()
    }

    /// What holds writes up.
    pub(super) fn held_up(&self, now: Moment) -> Option<HeldUp> {
        self.held_up.map(|(by, since)| HeldUp {
            by,
            held: now.since(since),
        })
    }

    /// Whether a seal would find no room again.
    pub(super) fn forbids_seal(&self, now: Moment) -> bool {
        self.seal_at.is_some_and(|at| now < at)
    }

    /// Some room was made.
    pub(super) fn made(&mut self) {
        self.retry_at = None;
        self.seal_at = None;
    }

    fn take_due(&mut self, now: Moment) -> Option<Group> {
        match self.retry_at {
            Some(at) if now < at => None,
            _ => self.group.take(),
        }
    }
}

impl ImageTask {
    /// The group waits: the disk has no room for it.
    pub(super) fn wait_for_room(&mut self, group: Group, reason: &str) {
        assert!(self.room.group.is_none(), "commits wait behind the first");
        let now = self.now();
        self.note_held_up(BufferLimit::Disk, reason);
        self.room.group = Some(group);
        self.room.retry_at = Some(now.after(ROOM_PAUSE));
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

    /// A commit found room.
    pub(super) fn found_room(&mut self) {
        if let Some(held) = self.room.held_up(self.now()) {
            self.room.held_up = None;
            self.room.made();
            let (limit, held_ms) = (held.by.description(), held.held.as_millis());
            tracing::debug!(image = %self.shared.id, limit, held_ms, "there is room again");
        }
    }

    /// Tries the group that waits again, if it is time.
    pub(super) async fn retry_for_room(&mut self) {
        if let Some(mut group) = self.room.take_due(self.now()) {
            self.commit(&mut group).await;
            self.answer_barriers();
        }
    }

    /// The group that waits is not committed.
    pub(super) fn refuse_for_want_of_room(&mut self, error: &EngineError) {
        if let Some(group) = self.room.group.take() {
            group.refuse(error);
        }
        self.answer_barriers();
    }

    /// Tells `reply` when nothing of a revoked connection takes effect any more.
    pub(super) fn answer_barrier(&mut self, reply: oneshot::Sender<()>) {
        self.room.barriers.push(reply);
        self.answer_barriers();
    }

    fn answer_barriers(&mut self) {
        if self.room.group.is_none() || crate::mutant::is("a barrier does not wait for room") {
            for reply in self.room.barriers.drain(..) {
                // Who does not wait any more does not need to know.
                let _ = reply.send(());
            }
        }
    }
}
