//! What is known of the room on the buffer store's disk; part of the task's state.

use crate::engine::buffer_budget::BufferLimit;
use crate::engine::status::HeldUp;
use crate::env::Moment;

/// What is known of the room on the buffer store's disk.
#[derive(Default)]
pub(super) struct Room {
    /// When commits that met a full disk are tried again.
    pub(super) retry_at: Option<Moment>,
    /// Not before this moment can a generation be sealed.
    pub(super) seal_at: Option<Moment>,
    /// What has held writes up since when.
    pub(super) held_up: Option<(BufferLimit, Moment)>,
    /// When the log was told of it last.
    pub(super) told_at: Option<Moment>,
}

impl Room {
    /// Whether commits wait for it.
    pub(super) fn is_awaited(&self) -> bool {
        self.retry_at.is_some()
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

    /// Whether commits have to wait longer; from the moment on at which they need not, they do not.
    pub(super) fn forbids_commits(&mut self, now: Moment) -> bool {
        self.retry_at = self.retry_at.filter(|at| now < *at);
        self.retry_at.is_some()
    }

    /// Some room was made.
    pub(super) fn made(&mut self) {
        self.seal_at = None;
        if self.retry_at.is_some() {
            self.retry_at = Some(Moment::default());
        }
    }

    /// Nobody waits for room.
    pub(super) fn nobody_waits(&mut self) {
        if self.retry_at.is_none() && self.seal_at.is_none() {
            self.held_up = None;
        }
    }
}
