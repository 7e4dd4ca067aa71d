//! A clock that moves only when a test says so.
//!
//! Sleepers wake in the order of their deadlines, and in the order in which they began to sleep
//! when deadlines are equal, so that a test is deterministic.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::oneshot;

use crate::env::{Clock, Moment, WallTime};

/// A clock that stands still until [`ManualClock::advance`].
#[derive(Clone, Default)]
pub struct ManualClock {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    now: Moment,
    wall: WallTime,
    sleeps_begun: u64,
    sleepers: BTreeMap<(Moment, u64), oneshot::Sender<()>>,
}

impl ManualClock {
    /// A clock at its origin, at the Unix epoch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the clock panics")
    }

    /// Moves both times forward and wakes every sleeper whose time has come.
    pub fn advance(&self, duration: Duration) {
        let mut state = self.state();
        let wall_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        state.now = state.now.after(duration);
        state.wall.unix_ms = state.wall.unix_ms.saturating_add(wall_ms);
        let now = state.now;
        while let Some(sleeper) = state.sleepers.first_entry() {
            if sleeper.key().0 > now {
                break;
            }
            // A sleeper that is gone was cancelled.
            let _ = sleeper.remove().send(());
        }
    }

    /// Moves to the earliest deadline and wakes its sleeper; `false` if nobody sleeps.
    pub fn advance_to_next_sleeper(&self) -> bool {
        let next = {
            let mut state = self.state();
            state.sleepers.retain(|_, sleeper| !sleeper.is_closed());
            state
                .sleepers
                .keys()
                .next()
                .map(|(deadline, _)| deadline.since(state.now))
        };
        match next {
            Some(duration) => {
                self.advance(duration);
                true
            }
            None => false,
        }
    }

    /// Sets the wall clock, forward or back; monotonic time and sleepers are not touched.
    pub fn set_wall(&self, wall: WallTime) {
        self.state().wall = wall;
    }

    /// How many sleeps are under way.
    #[must_use]
    pub fn sleepers(&self) -> usize {
        let mut state = self.state();
        state.sleepers.retain(|_, sleeper| !sleeper.is_closed());
        state.sleepers.len()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        self.state().now
    }

    fn wall(&self) -> WallTime {
        self.state().wall
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        if duration.is_zero() {
            return futures_util::future::ready(()).boxed();
        }
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        let deadline = state.now.after(duration);
        let number = state.sleeps_begun;
        state.sleeps_begun += 1;
        state.sleepers.insert((deadline, number), sender);
        async move {
            // The sender goes away unsent only with the clock, and then time has ended.
            if receiver.await.is_err() {
                futures_util::future::pending::<()>().await;
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleepers_wake_when_their_time_has_come() {
        let clock = ManualClock::new();
        let mut short = clock.sleep(Duration::from_secs(1));
        let mut long = clock.sleep(Duration::from_secs(3));
        assert_eq!(clock.sleepers(), 2);
        assert!((&mut short).now_or_never().is_none());

        clock.advance(Duration::from_secs(1));
        assert!((&mut short).now_or_never().is_some());
        assert!((&mut long).now_or_never().is_none());

        assert!(clock.advance_to_next_sleeper());
        assert!((&mut long).now_or_never().is_some());
        assert_eq!(clock.now(), Moment(Duration::from_secs(3)));
        assert_eq!(clock.wall().unix_ms, 3000);
        assert!(!clock.advance_to_next_sleeper());
    }

    #[test]
    fn a_cancelled_sleep_is_forgotten() {
        let clock = ManualClock::new();
        drop(clock.sleep(Duration::from_secs(1)));
        assert_eq!(clock.sleepers(), 0);
        assert!(!clock.advance_to_next_sleeper());
    }
}
