//! One machine's clock: its own origin, drift and wall-clock jumps over the simulation's one time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use mvps_core::env::{Clock, Moment, WallTime};

use crate::journal::{self, Journal};
use crate::random::RandomStream;

/// Wall clocks begin around here: 2026-01-01.
const EPOCH_MS: i64 = 1_767_225_600_000;

const MILLION: u128 = 1_000_000;

/// The clock of one process.
pub struct SimClock {
    origin: Duration,
    /// Microseconds that this clock counts in a second.
    rate: u128,
    /// How far the wall clock is off; shared by all processes of a machine.
    wall_offset_ms: Arc<AtomicI64>,
    watch: Option<Watch>,
}

/// Counts a jump when somebody looks.
struct Watch {
    jumped: Arc<AtomicBool>,
    journal: Journal,
    process: String,
}

impl SimClock {
    /// A clock that drifts by up to `drift_ppm` either way.
    #[must_use]
    pub fn new(random: &RandomStream, drift_ppm: u64, wall_offset_ms: Arc<AtomicI64>) -> Self {
        let drift = u128::from(random.below(2 * drift_ppm + 1));
        Self {
            origin: Duration::from_secs(random.below(1_000_000)),
            rate: MILLION - u128::from(drift_ppm) + drift,
            wall_offset_ms,
            watch: None,
        }
    }

    /// The same clock; the first look of `process` after `jumped` was set is recorded.
    #[must_use]
    pub fn watched(mut self, jumped: &Arc<AtomicBool>, journal: &Journal, process: &str) -> Self {
        self.watch = Some(Watch {
            jumped: Arc::clone(jumped),
            journal: journal.clone(),
            process: process.to_owned(),
        });
        self
    }

    /// Whether it runs faster or slower than the simulation's time.
    #[must_use]
    pub fn drifts(&self) -> bool {
        self.rate != MILLION
    }
}

fn scale(duration: Duration, by: u128, over: u128) -> Duration {
    let nanos = duration.as_nanos().saturating_mul(by).div_ceil(over);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 4))
}

impl Clock for SimClock {
    fn now(&self) -> Moment {
        Moment(
            self.origin
                .saturating_add(scale(journal::now(), self.rate, MILLION)),
        )
    }

    fn wall(&self) -> WallTime {
        if let Some(watch) = &self.watch
            && watch.jumped.swap(false, Ordering::SeqCst)
        {
            watch.journal.fault(&watch.process, "clock: jump");
        }
        let elapsed = i64::try_from(journal::now().as_millis()).unwrap_or(i64::MAX / 2);
        let wall = EPOCH_MS + elapsed + self.wall_offset_ms.load(Ordering::SeqCst);
        WallTime {
            unix_ms: u64::try_from(wall).unwrap_or(0),
        }
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        // Far enough for everybody, and near enough not to overflow the simulation's time.
        let longest = Duration::from_secs(100 * 365 * 86_400);
        Box::pin(madsim::time::sleep(
            scale(duration, MILLION, self.rate).min(longest),
        ))
    }
}
