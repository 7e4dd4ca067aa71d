//! What the client of a small world did and was told: the model that recovery is judged by.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mvps_core::engine::Attachment;
use mvps_core::ids::Lsn;

use super::workload::{Image, Letter};

/// What the client did and was told, shared with those who judge.
#[derive(Default)]
pub struct Progress(Mutex<Known>);

/// Everything that is known at one instant.
#[derive(Default)]
pub struct Known {
    /// The image before the first operation, and after each that was begun.
    pub images: Vec<Image>,
    /// Which of them was acknowledged last.
    pub acknowledged: usize,
    /// Which of them is promised to survive a power cut.
    pub durable: usize,
    /// Which of them is promised to survive the loss of the buffer store.
    pub published: usize,
    /// Which image a commit made.
    pub commits: BTreeMap<Lsn, usize>,
    /// How many calls there were when each operation began.
    pub starts: Vec<usize>,
    /// It was told to end, or met an error.
    pub end: Option<Result<(), String>>,
    /// What it leaves behind.
    pub attachment: Option<Attachment>,
}

impl Progress {
    /// Nothing happened yet.
    #[must_use]
    pub fn new() -> Self {
        let known = Known {
            images: vec![Image::default()],
            ..Known::default()
        };
        Self(Mutex::new(known))
    }

    /// What is known.
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation begins, after so many calls. Returns its number, from 1.
    pub fn begins(&self, letter: Letter, calls: usize) -> u64 {
        let mut known = self.known();
        known.starts.push(calls);
        let number = known.images.len() as u64;
        let last = known.images.last().expect("there is always one");
        let image = last.after(&letter.effects(number));
        known.images.push(image);
        number
    }

    /// The operation was acknowledged.
    pub fn ends(&self, letter: Letter) {
        let mut known = self.known();
        let reached = known.images.len() - 1;
        known.acknowledged = reached;
        if matches!(letter, Letter::Flush | Letter::Checkpoint) {
            known.durable = reached;
        }
        if letter == Letter::Checkpoint {
            known.published = reached;
        }
    }

    /// The image was closed: everything is published.
    pub fn closed(&self) {
        let mut known = self.known();
        let reached = known.images.len() - 1;
        known.acknowledged = reached;
        known.durable = reached;
        known.published = reached;
    }

    /// These commits reached the buffer store: they are of the operation under way, because the
    /// client does one thing at a time.
    pub fn committed(&self, lsns: &[Lsn]) {
        let mut known = self.known();
        let image = known.images.len() - 1;
        for lsn in lsns {
            known.commits.entry(*lsn).or_insert(image);
        }
    }
}

impl Known {
    /// The image as of an LSN: of the last commit up to it.
    #[must_use]
    pub fn image_at(&self, lsn: Lsn) -> usize {
        let commits = self.commits.range(..=lsn);
        commits.last().map_or(0, |(_, image)| *image)
    }
}
