//! Which versions are to be forgotten. Policy only: what is retained is retained because the
//! newest manifest says so, and this proposes what it shall say next. Pure.

use std::time::Duration;

use crate::env::WallTime;
use crate::format::manifest::Manifest;
use crate::ids::{Lsn, Version};

/// What an operator wants to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpiryPolicy {
    /// A version may be forgotten this long after its successor was published; with zero at once,
    /// whatever the clocks say.
    pub inactive: Duration,
    /// So many of the newest states of the image are kept however old they are; at least 1.
    /// Versions that follow each other without a change of content are one state.
    pub states_min: u32,
}

impl ExpiryPolicy {
    /// Whether nothing but the newest version is wanted, so that no other has to be looked at.
    #[must_use]
    pub fn keeps_only_the_newest(&self) -> bool {
        self.inactive.is_zero() && self.states_min <= 1
    }
}

/// What the decision needs to know of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionFacts {
    /// The version.
    pub version: Version,
    /// When it was published, by its publisher's clock.
    pub published_at: WallTime,
    /// Two versions of one life with the same LSN and size have the same content.
    pub state: (Lsn, u64),
}

impl VersionFacts {
    /// The facts of this version.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            version: manifest.version,
            published_at: manifest.published_at,
            state: (manifest.lsn, manifest.size_bytes),
        }
    }
}

/// The oldest version to retain from now on, if that is another than now. `retained` is every
/// version from the oldest retained one to the newest.
///
/// Publishing the answer makes a version of its own, which stands for the newest from then on: if
/// that is all that is to be kept, the answer is the version after the newest. Otherwise each pass
/// would forget what the previous one published.
#[must_use]
pub fn choose_oldest(
    retained: &[VersionFacts],
    policy: ExpiryPolicy,
    now: WallTime,
) -> Option<Version> {
    let last = retained.len().checked_sub(1)?;
    let kept_by_age = retained
        .windows(2)
        .position(|pair| {
            // The age of a version is that of its successor: until then it was the newest.
            let own = usize::from(!crate::mutant::is("a version ages while it is the newest"));
            !is_inactive(pair[own].published_at, policy.inactive, now)
        })
        .unwrap_or(last);
    let fewer = u32::from(crate::mutant::is("expiry keeps one state too few"));
    let states = policy.states_min.saturating_sub(fewer).max(1);
    let kept_by_count = oldest_of_newest_states(retained, states);
    match kept_by_age.min(kept_by_count) {
        0 => None,
        oldest if oldest == last => Some(retained[last].version.next()),
        oldest => Some(retained[oldest].version),
    }
}

/// Whether a version whose successor was published then may be forgotten.
fn is_inactive(successor_published_at: WallTime, inactive: Duration, now: WallTime) -> bool {
    let inactive_ms = u64::try_from(inactive.as_millis()).unwrap_or(u64::MAX);
    let due_ms = successor_published_at.unix_ms.saturating_add(inactive_ms);
    inactive.is_zero() || due_ms <= now.unix_ms
}

/// Where the newest version of the `states`-th newest state is (from 1), or the first version if
/// there are fewer states.
fn oldest_of_newest_states(retained: &[VersionFacts], states: u32) -> usize {
    let is_last_of_its_state = |&at: &usize| {
        retained
            .get(at + 1)
            .is_none_or(|next| next.state != retained[at].state)
    };
    let mut ends = (0..retained.len()).rev().filter(is_last_of_its_state);
    ends.nth(states as usize - 1).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 86_400_000;

    /// One version per character from version 1 on, each a day after the one before, the newest
    /// on day 100; equal characters are equal states.
    fn history(states: &str) -> Vec<VersionFacts> {
        let first_day = 101 - states.len() as u64;
        let facts = |(version, state): (u64, char)| VersionFacts {
            version: Version(version),
            published_at: WallTime {
                unix_ms: (first_day + version - 1) * DAY_MS,
            },
            state: (Lsn(u64::from(u32::from(state))), 0),
        };
        (1..).zip(states.chars()).map(facts).collect()
    }

    fn check(states: &str, days: u64, states_min: u32, now_day: u64, expected: Option<u64>) {
        let policy = ExpiryPolicy {
            inactive: Duration::from_millis(days * DAY_MS),
            states_min,
        };
        let now = WallTime {
            unix_ms: now_day * DAY_MS,
        };
        let chosen = choose_oldest(&history(states), policy, now);
        let what = format!("{states}, {days} days, {states_min} states, day {now_day}");
        assert_eq!(chosen, expected.map(Version), "{what}");
    }

    #[test]
    fn by_age() {
        check("a", 0, 1, 100, None);
        check("abcde", 1000, 1, 100, None);
        // Version 3 was replaced on day 99: two days later it may go, and not before.
        check("abcde", 2, 1, 100, Some(3));
        check("abcde", 2, 1, 101, Some(4));
        // When only the newest is left, what is published stands for it.
        check("abcde", 2, 1, 102, Some(6));
        check("abcde", 0, 1, 100, Some(6));
        // At once means whatever the clocks say.
        check("abcde", 0, 1, 0, Some(6));
        check("abcde", 1, 1, 0, None);
    }

    #[test]
    fn by_count() {
        check("abcde", 0, 2, 100, Some(4));
        check("abcde", 0, 4, 100, Some(2));
        check("abcde", 0, 5, 100, None);
        check("abcde", 0, 9, 100, None);
        check("abcde", 0, 0, 100, Some(6));
        // Whatever is younger than both is kept.
        check("abcde", 2, 2, 100, Some(3));
        check("abcde", 2, 2, 200, Some(4));
        // Equal versions in a row are one state.
        check("abccc", 0, 2, 100, Some(2));
        check("aabbcc", 0, 2, 100, Some(4));
        check("aaaaa", 0, 1, 100, Some(6));
        check("aaaaa", 0, 2, 100, None);
    }

    #[test]
    fn a_version_behind_a_young_one_is_kept() {
        let mut facts = history("abcde");
        facts[1].published_at.unix_ms = 200 * DAY_MS;
        let policy = ExpiryPolicy {
            inactive: Duration::from_millis(DAY_MS),
            states_min: 1,
        };
        let now = WallTime {
            unix_ms: 150 * DAY_MS,
        };
        assert_eq!(choose_oldest(&facts, policy, now), None);
    }

    #[test]
    fn passes_come_to_rest() {
        for (states, states_min) in [("abcde", 1), ("abcde", 2), ("aabbc", 2), ("abcdd", 3)] {
            let mut facts = history(states);
            let policy = ExpiryPolicy {
                inactive: Duration::ZERO,
                states_min,
            };
            let now = WallTime {
                unix_ms: 100 * DAY_MS,
            };
            let mut published = 0;
            while let Some(oldest) = choose_oldest(&facts, policy, now) {
                let newest = *facts.last().unwrap();
                facts.push(VersionFacts {
                    version: newest.version.next(),
                    ..newest
                });
                facts.retain(|it| it.version >= oldest);
                published += 1;
                assert!(published < 3, "{states} {states_min}: never at rest");
            }
            assert_eq!(published, 1, "{states} {states_min}");
        }
    }
}
