//! What an image's task does next: pure.

use crate::engine::publisher::{Pace, Urgency};

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Seal,
    Checkpoint,
    Clean,
    Release,
    Grow,
    Rollback,
    Close,
    /// Closing failed for good.
    GiveUp,
}

/// The task's state as far as it decides what is next.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Picture {
    pub(super) failed: bool,
    pub(super) closing: bool,
    pub(super) active_bytes: u64,
    pub(super) checkpoint_bytes: u64,
    pub(super) sealed: usize,
    pub(super) publisher_idle: bool,
    /// A checkpoint was asked for, or its time has come.
    pub(super) due: bool,
    /// Another generation finds no room on the disk.
    pub(super) no_room: bool,
    pub(super) grow: bool,
    /// A rollback waits for the publisher.
    pub(super) rollback_wanted: bool,
    /// A rollback stopped commits and checkpoints.
    pub(super) rolling_back: bool,
    pub(super) cleaning: Urgency,
    pub(super) cleaned_last: bool,
    pub(super) release: bool,
    pub(super) views_closed: bool,
    /// Background work holds the buffer store, which closing has to release.
    pub(super) buffer_in_use: bool,
}

pub(super) fn next_action(picture: &Picture) -> Option<Action> {
    if picture.failed {
        return (picture.closing && picture.publisher_idle).then_some(Action::GiveUp);
    }
    if picture.rolling_back {
        let begins = picture.rollback_wanted && picture.publisher_idle;
        return begins.then_some(Action::Rollback);
    }
    // A limit of nothing asks for a checkpoint of every commit, not of none.
    let full_bytes = picture.checkpoint_bytes.max(1);
    if picture.active_bytes >= full_bytes && !picture.no_room {
        return Some(Action::Seal);
    }
    if !picture.publisher_idle {
        return None;
    }
    if picture.grow {
        return Some(Action::Grow);
    }
    let cleaning = if picture.closing {
        Urgency::None
    } else {
        picture.cleaning
    };
    if picture.sealed > 0 {
        let turn = cleaning == Urgency::InTurns && !picture.cleaned_last;
        return Some(if turn {
            Action::Clean
        } else {
            Action::Checkpoint
        });
    }
    if picture.active_bytes > 0 && (picture.due || picture.closing) && !picture.no_room {
        return Some(Action::Seal);
    }
    if cleaning > Urgency::None {
        return Some(Action::Clean);
    }
    if picture.release && picture.active_bytes == 0 && !picture.closing {
        return Some(Action::Release);
    }
    let drained = picture.active_bytes == 0 && !picture.buffer_in_use;
    (picture.closing && drained && picture.views_closed).then_some(Action::Close)
}

/// How a step of cleaning that is under way goes on.
pub(super) fn pace(picture: &Picture) -> Pace {
    let checkpoint = picture.sealed > 0 || picture.active_bytes > 0 && picture.due;
    let other = picture.failed || picture.closing || picture.grow || picture.rolling_back;
    match (checkpoint, picture.cleaning) {
        _ if other => Pace::Ending,
        (false, _) => Pace::Leisurely,
        (true, Urgency::InTurns) => Pace::Brisk,
        (true, _) => Pace::Ending,
    }
}
