//! Time. Clocks choose policy only; no safety rule depends on one (protocol §4.5).

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;

/// A point on one node's monotonic clock: time since an arbitrary origin of that process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub Duration);

impl Moment {
    /// Time from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `duration` after this one.
    #[must_use]
    pub fn after(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(duration))
    }
}

/// Wall-clock time in milliseconds since the Unix epoch. It may jump in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WallTime {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub unix_ms: u64,
}

/// Days from 1970 to the year 10000, where [`WallTime`] is no longer shown as a date.
const DATES_END_DAYS: u64 = 2_932_897;

/// As in `2026-01-31T23:59:59Z`.
impl fmt::Display for WallTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.unix_ms / 1000;
        let mut days = seconds / 86_400;
        if days >= DATES_END_DAYS {
            return write!(formatter, "{} ms after 1970", self.unix_ms);
        }
        let is_leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        let mut year = 1970;
        while days >= 365 + u64::from(is_leap(year)) {
            days -= 365 + u64::from(is_leap(year));
            year += 1;
        }
        let february = 28 + u64::from(is_leap(year));
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if days < length {
                break;
            }
            days -= length;
            month += 1;
        }
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let day = days + 1;
        write!(
            formatter,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

/// A source of time and of waiting.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic time; never goes back within one process.
    fn now(&self) -> Moment;
    /// Wall-clock time, for `exp` claims, `published_at` and logs. Never for safety.
    fn wall(&self) -> WallTime;
    /// Completes after at least `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_times_are_shown_as_dates() {
        for (unix_ms, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399_999, "2000-02-28T23:59:59Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (951_868_800_000, "2000-03-01T00:00:00Z"),
            (1_767_225_600_000, "2026-01-01T00:00:00Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59Z"),
            (253_402_300_800_000, "253402300800000 ms after 1970"),
        ] {
            assert_eq!(WallTime { unix_ms }.to_string(), expected);
        }
    }
}
