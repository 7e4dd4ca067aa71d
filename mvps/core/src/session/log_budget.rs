//! How much of the log clients may fill.
//!
//! A client that reaches the port can make thousands of connections a second end, each worth a
//! line. Lines beyond the budget are counted, not written, and the first line of a later period
//! says how many there were. What cannot be done for a client is always written: the server asked
//! the object store to find that out, so there are few such lines.
//!
//! Invariant: unauthenticated clients and clients with a good token have a budget each, so a flood
//! of the former hides nothing of the latter.

use std::sync::{Mutex, PoisonError};

use super::limits::LOG_PERIOD;
use crate::env::Moment;

/// A number of lines per [`LOG_PERIOD`].
#[derive(Debug)]
pub(super) struct LogBudget {
    /// Who writes them, for the line that says how many are missing.
    whose: &'static str,
    lines_max: u32,
    period: Mutex<Period>,
}

/// The present period.
#[derive(Debug, Default)]
struct Period {
    began: Moment,
    written: u32,
    left_out: u64,
}

impl LogBudget {
    pub(super) fn new(whose: &'static str, lines_max: u32) -> Self {
        let period = Mutex::default();
        Self {
            whose,
            lines_max,
            period,
        }
    }

    /// Whether a line may be written now.
    pub(super) fn allows(&self, now: Moment) -> bool {
        let (allowed, left_out) = self.count(now);
        if left_out > 0 {
            let Self {
                whose, lines_max, ..
            } = self;
            tracing::warn!(
                left_out,
                "lines about {whose} were left out: they get {lines_max} in {LOG_PERIOD:?}"
            );
        }
        allowed
    }

    /// Whether a line may be written now, and how many were left out in a period that has ended.
    fn count(&self, now: Moment) -> (bool, u64) {
        // Nothing under this lock can leave the period half changed.
        let mut period = self.period.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left_out = 0;
        if now.since(period.began) >= LOG_PERIOD {
            left_out = period.left_out;
            *period = Period {
                began: now,
                ..Period::default()
            };
        }
        let allowed = period.written < self.lines_max;
        if allowed {
            period.written += 1;
        } else {
            period.left_out += 1;
        }
        (allowed, left_out)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lines_beyond_the_share_are_counted_and_told_later() {
        let budget = LogBudget::new("unauthenticated clients", 2);
        let mut now = Moment(LOG_PERIOD);
        assert_eq!(budget.count(now), (true, 0));
        now = now.after(LOG_PERIOD / 2);
        assert_eq!(budget.count(now), (true, 0));
        for _ in 0..3 {
            assert_eq!(budget.count(now), (false, 0));
        }
        now = now.after(LOG_PERIOD / 2 - Duration::from_nanos(1));
        assert_eq!(budget.count(now), (false, 0), "still the same period");
        now = now.after(Duration::from_nanos(1));
        assert_eq!(budget.count(now), (true, 4));
        assert_eq!(budget.count(now), (true, 0), "they are told once");
        assert_eq!(budget.count(now), (false, 0));
    }
}
