//! Who may be connected: a limit on all connections, and one on those that still negotiate.
//!
//! Who negotiates has proven nothing. When such connections fill their share, or all there is, the
//! one that has negotiated for longest makes room for the newest: a client with a token needs
//! milliseconds, and so gets through whatever others leave open. Who has shown a good token is never
//! made to leave.
//!
//! Invariant: a seat is given back when it is dropped, and only then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::limits::HALF_OPEN_MAX;

/// All seats of a server.
#[derive(Debug)]
pub(super) struct Seats {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    last_id: u64,
    /// Who negotiates, oldest first, and how to send it away.
    half_open: BTreeMap<u64, oneshot::Sender<()>>,
    /// Who was sent away and has not left yet.
    leaving: BTreeSet<u64>,
}

/// A connection's seat.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    id: u64,
}

/// Told when the seat's holder must leave; an error says that it never must.
pub(super) type SentAway = oneshot::Receiver<()>;

impl Seats {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self { limit, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.state().taken
    }

    /// A seat for a new connection; `None` if all are taken by clients with a token.
    pub(super) fn take(self: &Arc<Self>) -> Option<(Seat, SentAway)> {
        let mut state = self.state();
        let is_full = state.taken - state.leaving.len() >= self.limit;
        if is_full || state.half_open.len() >= HALF_OPEN_MAX {
            let (oldest, holder) = state.half_open.pop_first()?;
            // One that has just ended no longer listens.
            let _ = holder.send(());
            state.leaving.insert(oldest);
        }
        state.taken += 1;
        state.last_id += 1;
        let id = state.last_id;
        let (sender, sent_away) = oneshot::channel();
        state.half_open.insert(id, sender);
        let seats = Arc::clone(self);
        Some((Seat { seats, id }, sent_away))
    }
}

impl Seat {
    /// The client has shown a good token: it stays. `false` if it was sent away before.
    pub(super) fn keep(&self) -> bool {
        let mut state = self.seats.state();
        state.half_open.remove(&self.id);
        !state.leaving.contains(&self.id)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.seats.state();
        state.half_open.remove(&self.id);
        state.leaving.remove(&self.id);
        state.taken -= 1;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    #[test]
    fn the_oldest_half_open_connection_makes_room() {
        let seats = Seats::new(3);
        let (first, mut first_away) = seats.take().unwrap();
        let (second, mut second_away) = seats.take().unwrap();
        let (third, _third_away) = seats.take().unwrap();
        assert!(first.keep());
        let (fourth, _fourth_away) = seats.take().unwrap();
        assert_eq!(first_away.try_recv(), Err(TryRecvError::Closed));
        assert_eq!(second_away.try_recv(), Ok(()));
        assert!(!second.keep(), "it was sent away");
        assert!(third.keep() && fourth.keep());
        assert!(seats.take().is_none(), "nobody can be sent away");
        assert_eq!(seats.taken(), 4, "one is still leaving");
        drop(second);
        assert_eq!(seats.taken(), 3);
        drop(third);
        assert!(seats.take().is_some());
        drop((first, fourth));
        assert_eq!(seats.taken(), 0);
    }

    #[test]
    fn half_open_connections_have_a_limit_of_their_own() {
        let seats = Seats::new(10 * HALF_OPEN_MAX);
        let mut taken: Vec<_> = (0..HALF_OPEN_MAX).map(|_| seats.take().unwrap()).collect();
        let newest = seats.take().unwrap();
        assert_eq!(taken[0].1.try_recv(), Ok(()));
        assert_eq!(taken[1].1.try_recv(), Err(TryRecvError::Empty));
        assert!(newest.0.keep());
    }
}
