//! Time. Clocks choose policy only; no safety rule depends on one (protocol §4.5).

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

/// A source of time and of waiting.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic time; never goes back within one process.
    fn now(&self) -> Moment;
    /// Wall-clock time, for `exp` claims, `published_at` and logs. Never for safety.
    fn wall(&self) -> WallTime;
    /// Completes after at least `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}
