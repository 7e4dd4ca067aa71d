//! Who may be connected: a limit on all connections, one on those that still negotiate, and one on
//! those of one image.
//!
//! Who negotiates has proven nothing. When such connections fill their share, or all there is, the
//! one that has negotiated for longest makes room for the newest: a client with a token needs
//! milliseconds, and so gets through whatever others leave open. Who has shown a good token is never
//! made to leave, while it has the image or waits for it: an image that does not open, or that
//! everybody wants, takes its own share of the seats and no other's.
//!
//! Invariant: a seat is given back when it is dropped, and only then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::limits::{HALF_OPEN_MAX, SEATS_PER_IMAGE_MAX};
use crate::ids::ImageId;

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
    /// Who has shown a good token, and of which image.
    kept: BTreeMap<u64, (ImageId, oneshot::Sender<()>)>,
    /// How many of these each image has.
    per_image: BTreeMap<ImageId, usize>,
    /// Who was sent away and has not left yet.
    leaving: BTreeSet<u64>,
}

/// A connection's seat.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    id: u64,
}

/// Why a client with a good token gets no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSeat {
    /// It was sent away before.
    SentAway,
    /// The image has its share of seats.
    ImageFull,
}

/// Told when the seat's holder must leave.
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

impl State {
    /// The connection has an image no more; how it can be sent away.
    fn unkeep(&mut self, id: u64) -> Option<oneshot::Sender<()>> {
        let (image, holder) = self.kept.remove(&id)?;
        let count = self.per_image.get_mut(&image)?;
        *count -= 1;
        if *count == 0 {
            self.per_image.remove(&image);
        }
        Some(holder)
    }
}

impl Seat {
    /// The client has shown a good token for `image`: it stays.
    pub(super) fn keep(&self, image: &ImageId) -> Result<(), NoSeat> {
        let mut state = self.seats.state();
        let holder = state.half_open.remove(&self.id).ok_or(NoSeat::SentAway)?;
        let count = state.per_image.entry(image.clone()).or_default();
        if *count >= SEATS_PER_IMAGE_MAX {
            state.half_open.insert(self.id, holder);
            return Err(NoSeat::ImageFull);
        }
        *count += 1;
        state.kept.insert(self.id, (image.clone(), holder));
        Ok(())
    }

    /// Whether the client has shown a good token and not been refused.
    pub(super) fn is_kept(&self) -> bool {
        self.seats.state().kept.contains_key(&self.id)
    }

    /// The client did not get the image: it negotiates again.
    pub(super) fn release(&self) {
        let mut state = self.seats.state();
        if let Some(holder) = state.unkeep(self.id) {
            state.half_open.insert(self.id, holder);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.seats.state();
        state.half_open.remove(&self.id);
        state.leaving.remove(&self.id);
        drop(state.unkeep(self.id));
        state.taken -= 1;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    fn image(name: &str) -> ImageId {
        ImageId::parse(name).unwrap()
    }

    #[test]
    fn the_oldest_half_open_connection_makes_room() {
        let seats = Seats::new(3);
        let (first, mut first_away) = seats.take().unwrap();
        let (second, mut second_away) = seats.take().unwrap();
        let (third, _third_away) = seats.take().unwrap();
        assert_eq!(first.keep(&image("a")), Ok(()));
        let (fourth, _fourth_away) = seats.take().unwrap();
        assert_eq!(first_away.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(second_away.try_recv(), Ok(()));
        assert_eq!(second.keep(&image("a")), Err(NoSeat::SentAway));
        assert!(third.keep(&image("a")).is_ok() && fourth.keep(&image("b")).is_ok());
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
        assert_eq!(newest.0.keep(&image("a")), Ok(()));
    }

    #[test]
    fn one_image_takes_its_share_of_the_seats_only() {
        let seats = Seats::new(SEATS_PER_IMAGE_MAX + 2);
        let greedy: Vec<_> = (0..SEATS_PER_IMAGE_MAX)
            .map(|_| seats.take().unwrap())
            .collect();
        for (seat, _) in &greedy {
            assert_eq!(seat.keep(&image("a")), Ok(()));
        }
        let (more, mut more_away) = seats.take().unwrap();
        assert_eq!(more.keep(&image("a")), Err(NoSeat::ImageFull));
        let (other, _other_away) = seats.take().unwrap();
        assert_eq!(other.keep(&image("b")), Ok(()));
        // Who was refused still negotiates, and makes room.
        let (newest, _newest_away) = seats.take().unwrap();
        assert_eq!(more_away.try_recv(), Ok(()));
        drop(more);
        assert_eq!(newest.keep(&image("a")), Err(NoSeat::ImageFull));
        // So does who had a seat and did not get the image.
        greedy[0].0.release();
        assert_eq!(newest.keep(&image("a")), Ok(()));
        let (_latest, _latest_away) = seats.take().unwrap();
        assert_eq!(greedy[0].0.keep(&image("b")), Err(NoSeat::SentAway));
        drop((greedy, other, newest));
        assert_eq!(seats.state().per_image.len(), 0);
    }
}
