//! Time from the operating system and tokio's timer.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use mvps_core::env::{Clock, Moment, WallTime};

/// The process's clock. Moments are counted from its creation.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    origin: Instant,
}

impl TokioClock {
    /// A clock whose origin is now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
        }
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Moment {
        Moment(self.origin.elapsed())
    }

    fn wall(&self) -> WallTime {
        // A clock set before 1970 reads as 1970: it is policy only.
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        WallTime {
            unix_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sleeping_takes_at_least_as_long_as_asked() {
        let clock = TokioClock::new();
        let before = clock.now();
        clock.sleep(Duration::from_millis(5)).await;
        assert!(clock.now().since(before) >= Duration::from_millis(5));
    }

    #[test]
    fn wall_time_is_in_this_century() {
        let wall = TokioClock::new().wall();
        assert!(wall.unix_ms > 1_600_000_000_000, "{wall:?}");
        assert!(wall.unix_ms < 4_102_444_800_000, "{wall:?}");
    }
}
