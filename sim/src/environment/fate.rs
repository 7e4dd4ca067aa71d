//! What becomes of one request to the object store: drawn purely from the plan's rates.

use std::time::Duration;

use mvps_core::store::retry_policy::SLOW_DOWN_MAX;

use crate::plan::StoreFaults;
use crate::random::RandomStream;

/// Longest usual answer.
const LATENCY_MAX: Duration = Duration::from_millis(80);

/// The fate of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Carried out and answered.
    Served,
    /// Carried out and answered, after seconds.
    Slow(Duration),
    /// Not carried out; an error.
    Refused,
    /// Carried out; an error.
    ReplyLost,
    /// Carried out after this long, when nobody waits any more; an error soon, or no answer.
    Late {
        /// When it lands.
        after: Duration,
        /// Whether there is an error soon.
        answered: bool,
    },
    /// Carried out and answered, and carried out again after this long.
    Twice(Duration),
    /// Never answered.
    Stalled {
        /// Whether it is carried out.
        applied: bool,
    },
    /// Not carried out: the store wants rest.
    SlowDown,
    /// A read that is cut short on the way.
    Truncated,
    /// A read that begins to be answered, and never ends.
    BodyStalled,
    /// A read with one bit flipped on the way.
    BitFlip,
    /// A read that is answered with another object's bytes.
    WrongObject,
    /// Some of the keys are deleted, the others are not.
    PartialDelete,
    /// The completion of an upload is answered well, and the body says that it failed.
    CompletionFails {
        /// Whether it did.
        applied: bool,
    },
    /// Another conditional create of the name is in flight (409). Not carried out.
    Conflict,
}

impl Fate {
    /// The fault's name, if it strikes whatever the request finds: the others are counted where they do
    /// something.
    #[must_use]
    pub fn certain_fault(self) -> Option<&'static str> {
        match self {
            Self::Slow(_) => Some("store: slow"),
            Self::Refused => Some("store: refused"),
            Self::Stalled { .. } => Some("store: stalled"),
            Self::SlowDown => Some("store: slow down"),
            Self::BodyStalled => Some("store: stall in mid-body"),
            Self::CompletionFails { .. } => Some("store: error inside a 200"),
            Self::Conflict => Some("store: conflict on create"),
            Self::Served
            | Self::ReplyLost
            | Self::Late { .. }
            | Self::Twice(_)
            | Self::Truncated
            | Self::BitFlip
            | Self::WrongObject
            | Self::PartialDelete => None,
        }
    }

    /// How long its client may have nothing of the store for it, when a try takes `patience` at most.
    #[must_use]
    pub fn lasts(self, patience: Duration) -> Duration {
        match self {
            Self::Slow(more) => more.min(patience),
            Self::Stalled { .. }
            | Self::BodyStalled
            | Self::Late {
                answered: false, ..
            } => patience,
            Self::SlowDown => SLOW_DOWN_MAX,
            _ => Duration::ZERO,
        }
    }
}

/// What is asked, as far as its fate depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// It changes something.
    pub mutates: bool,
    /// It is a conditional create.
    pub creates: bool,
    /// It returns a body.
    pub body: bool,
    /// It deletes several objects.
    pub deletes: bool,
    /// It completes an upload.
    pub completes: bool,
}

/// Draws a fate.
#[must_use]
pub fn draw(random: &RandomStream, rates: &StoreFaults, kind: Kind) -> Fate {
    let late = || random.duration(Duration::from_millis(500), Duration::from_secs(2 * 3600));
    let only = |wanted: bool, rate: u64| if wanted { rate } else { 0 };
    let rates = [
        rates.refused,
        only(kind.mutates, rates.reply_lost),
        only(kind.mutates, rates.late),
        only(kind.mutates, rates.twice),
        rates.stalled,
        rates.slow_down,
        only(kind.body, rates.truncated),
        only(kind.body, rates.bit_flip),
        only(kind.creates, rates.conflict),
        rates.slow,
        only(kind.body, rates.slow_reads),
        only(kind.body, rates.body_stalled),
        only(kind.body, rates.wrong_object),
        only(kind.deletes, rates.partial_delete),
        only(kind.completes, rates.completion_fails),
    ];
    let mut left = random.below(1000);
    for (index, rate) in rates.iter().enumerate() {
        if left >= *rate {
            left -= rate;
            continue;
        }
        return match index {
            0 => Fate::Refused,
            1 => Fate::ReplyLost,
            2 => Fate::Late {
                after: late(),
                answered: random.chance(700),
            },
            3 => Fate::Twice(late()),
            4 => Fate::Stalled {
                applied: kind.mutates && random.chance(500),
            },
            5 => Fate::SlowDown,
            6 => Fate::Truncated,
            7 => Fate::BitFlip,
            8 => Fate::Conflict,
            10 => Fate::Slow(random.duration(Duration::from_millis(300), Duration::from_secs(3))),
            11 => Fate::BodyStalled,
            12 => Fate::WrongObject,
            13 => Fate::PartialDelete,
            14 => Fate::CompletionFails {
                applied: random.chance(500),
            },
            _ => Fate::Slow(random.duration(Duration::from_millis(500), Duration::from_secs(15))),
        };
    }
    Fate::Served
}

/// How long an answer takes when nothing is wrong.
#[must_use]
pub fn latency(random: &RandomStream) -> Duration {
    random.duration(Duration::from_millis(1), LATENCY_MAX)
}
