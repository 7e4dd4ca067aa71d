//! How fast a step of cleaning that is under way goes on, as the image's task sets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How a step that is under way goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Pace {
    /// With pauses: nobody waits for the publisher.
    Leisurely,
    /// Without: somebody waits, but it is cleaning's turn.
    Brisk,
    /// It ends: the publisher is wanted for something else.
    Ending,
}

/// The pace, as the image's task sets it while the step runs elsewhere.
#[derive(Debug, Clone, Default)]
pub(in crate::engine) struct Hurry(Arc<AtomicU8>);

impl Hurry {
    pub(in crate::engine) fn set(&self, pace: Pace) {
        self.0.store(pace as u8, Ordering::Relaxed);
    }

    pub(super) fn is(&self, pace: Pace) -> bool {
        self.0.load(Ordering::Relaxed) == pace as u8
    }
}
