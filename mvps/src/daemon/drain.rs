//! How long a shutdown waits for the object store. Pure.
//!
//! A drain may take long while it gets on: gigabytes may have to be uploaded. So what is bounded is
//! not the drain but the time without an answer from the object store. What is then still in the
//! buffer store stays there, and the next start on it goes on where this one stopped.

use std::time::Duration;

use mvps_core::env::Moment;
use mvps_core::store::StoreStatistics;

/// Watches whether a drain gets on.
#[derive(Debug, Clone, Copy)]
pub struct DrainPatience {
    limit: Duration,
    answered: u64,
    since: Moment,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainVerdict {
    /// It gets on, or may yet.
    Wait,
    /// The object store has answered nothing for too long.
    GiveUp,
}

impl DrainPatience {
    /// Begins at `now`, for at most `limit` without an answer.
    #[must_use]
    pub fn begin(limit: Duration, now: Moment, statistics: &StoreStatistics) -> Self {
        Self {
            limit,
            answered: answered(statistics),
            since: now,
        }
    }

    /// Looks again.
    pub fn look(&mut self, now: Moment, statistics: &StoreStatistics) -> DrainVerdict {
        let answered = answered(statistics);
        if answered != self.answered {
            (self.answered, self.since) = (answered, now);
        }
        if now.since(self.since) >= self.limit {
            DrainVerdict::GiveUp
        } else {
            DrainVerdict::Wait
        }
    }
}

/// Requests that ended with an answer. Bodies count too: parts of one large upload are progress.
fn answered(statistics: &StoreStatistics) -> u64 {
    let tries: u64 = statistics.tries.values().sum();
    tries
        .saturating_sub(statistics.failed_tries)
        .saturating_sub(statistics.in_flight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn statistics(tries: u64, failed_tries: u64, in_flight: u64) -> StoreStatistics {
        let tries = [("upload_part", tries)].into_iter().collect();
        StoreStatistics {
            tries,
            failed_tries,
            in_flight,
            ..StoreStatistics::default()
        }
    }

    #[test]
    fn only_silence_ends_a_drain() {
        let limit = Duration::from_secs(20);
        let mut patience = DrainPatience::begin(limit, seconds(0), &statistics(5, 0, 0));
        let mut check = |at: u64, tries: (u64, u64, u64), expected: DrainVerdict| {
            let verdict = patience.look(seconds(at), &statistics(tries.0, tries.1, tries.2));
            assert_eq!(verdict, expected, "after {at} s");
        };
        // Failed tries and tries under way are no answers.
        check(10, (6, 0, 1), DrainVerdict::Wait);
        check(19, (9, 4, 0), DrainVerdict::Wait);
        check(20, (9, 4, 0), DrainVerdict::GiveUp);
        // An answer starts the time again.
        check(21, (10, 4, 0), DrainVerdict::Wait);
        check(40, (15, 8, 1), DrainVerdict::Wait);
        check(41, (15, 8, 0), DrainVerdict::Wait);
        check(60, (15, 8, 0), DrainVerdict::Wait);
        check(61, (15, 8, 0), DrainVerdict::GiveUp);
    }
}
