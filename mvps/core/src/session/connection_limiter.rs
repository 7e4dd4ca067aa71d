//! Limits on connections: all of them, those that still negotiate, and those of one image.
//!
//! A client that negotiates has proven nothing. When such connections fill their share, or all
//! slots, the one that has negotiated for longest is evicted for the newest: a client with a token
//! needs milliseconds, and so gets through whatever others leave open. A client that has shown a
//! good token is never evicted while it has the image or waits for it. An image that does not open,
//! or that everybody wants, takes its own share of the slots and no other's.
//!
//! Invariant: a slot is given back when it is dropped, and only then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::limits::{HALF_OPEN_MAX, SLOTS_PER_IMAGE_MAX};
use crate::ids::ImageId;

/// The slots of a server.
#[derive(Debug)]
pub(super) struct ConnectionLimiter {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    last_id: u64,
    /// Those that negotiate, oldest first, and how to tell them to end.
    half_open: BTreeMap<u64, oneshot::Sender<()>>,
    /// Those that have shown a good token, and for which image.
    admitted: BTreeMap<u64, (ImageId, oneshot::Sender<()>)>,
    /// How many of these each image has.
    per_image: BTreeMap<ImageId, usize>,
    /// Those that were evicted and have not ended yet.
    evicted: BTreeSet<u64>,
}

/// A connection's slot.
#[derive(Debug)]
pub(super) struct Slot {
    limiter: Arc<ConnectionLimiter>,
    id: u64,
}

/// Why a client with a good token is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSlot {
    /// Its connection was evicted before.
    Evicted,
    /// The image has its share of slots.
    ImageFull,
}

/// Told when the slot's holder is evicted.
pub(super) type Evicted = oneshot::Receiver<()>;

impl ConnectionLimiter {
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

    /// A slot for a new connection; `None` if all are taken by clients with a token.
    pub(super) fn take(self: &Arc<Self>) -> Option<(Slot, Evicted)> {
        let mut state = self.state();
        let is_full = state.taken - state.evicted.len() >= self.limit;
        if is_full || state.half_open.len() >= HALF_OPEN_MAX {
            let (oldest, holder) = state.half_open.pop_first()?;
            // One that has just ended no longer listens.
            let _ = holder.send(());
            state.evicted.insert(oldest);
        }
        state.taken += 1;
        state.last_id += 1;
        let id = state.last_id;
        let (sender, evicted) = oneshot::channel();
        state.half_open.insert(id, sender);
        let limiter = Arc::clone(self);
        Some((Slot { limiter, id }, evicted))
    }
}

impl State {
    /// The connection has an image no more; how it can be evicted.
    fn withdraw(&mut self, id: u64) -> Option<oneshot::Sender<()>> {
        let (image, holder) = self.admitted.remove(&id)?;
        let count = self.per_image.get_mut(&image)?;
        *count -= 1;
        if *count == 0 {
            self.per_image.remove(&image);
        }
        Some(holder)
    }
}

impl Slot {
    /// The client has shown a good token for `image`: it stays.
    pub(super) fn admit(&self, image: &ImageId) -> Result<(), NoSlot> {
        let mut state = self.limiter.state();
        let holder = state.half_open.remove(&self.id).ok_or(NoSlot::Evicted)?;
        let count = state.per_image.entry(image.clone()).or_default();
        if *count >= SLOTS_PER_IMAGE_MAX {
            state.half_open.insert(self.id, holder);
            return Err(NoSlot::ImageFull);
        }
        *count += 1;
        state.admitted.insert(self.id, (image.clone(), holder));
        Ok(())
    }

    /// Whether the client has shown a good token and not been refused.
    pub(super) fn is_admitted(&self) -> bool {
        self.limiter.state().admitted.contains_key(&self.id)
    }

    /// The client did not get the image: it negotiates again.
    pub(super) fn release(&self) {
        let mut state = self.limiter.state();
        if let Some(holder) = state.withdraw(self.id) {
            state.half_open.insert(self.id, holder);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.limiter.state();
        state.half_open.remove(&self.id);
        state.evicted.remove(&self.id);
        drop(state.withdraw(self.id));
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
    fn the_oldest_half_open_connection_is_evicted() {
        let limiter = ConnectionLimiter::new(3);
        let (first, mut first_evicted) = limiter.take().unwrap();
        let (second, mut second_evicted) = limiter.take().unwrap();
        let (third, _third_evicted) = limiter.take().unwrap();
        assert_eq!(first.admit(&image("a")), Ok(()));
        let (fourth, _fourth_evicted) = limiter.take().unwrap();
        assert_eq!(first_evicted.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(second_evicted.try_recv(), Ok(()));
        assert_eq!(second.admit(&image("a")), Err(NoSlot::Evicted));
        assert!(third.admit(&image("a")).is_ok() && fourth.admit(&image("b")).is_ok());
        assert!(limiter.take().is_none(), "nobody can be evicted");
        assert_eq!(limiter.taken(), 4, "one has not ended yet");
        drop(second);
        assert_eq!(limiter.taken(), 3);
        drop(third);
        assert!(limiter.take().is_some());
        drop((first, fourth));
        assert_eq!(limiter.taken(), 0);
    }

    #[test]
    fn half_open_connections_have_a_limit_of_their_own() {
        let limiter = ConnectionLimiter::new(10 * HALF_OPEN_MAX);
        let mut taken: Vec<_> = (0..HALF_OPEN_MAX)
            .map(|_| limiter.take().unwrap())
            .collect();
        let newest = limiter.take().unwrap();
        assert_eq!(taken[0].1.try_recv(), Ok(()));
        assert_eq!(taken[1].1.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(newest.0.admit(&image("a")), Ok(()));
    }

    #[test]
    fn one_image_takes_its_share_of_the_slots_only() {
        let limiter = ConnectionLimiter::new(SLOTS_PER_IMAGE_MAX + 2);
        let greedy: Vec<_> = (0..SLOTS_PER_IMAGE_MAX)
            .map(|_| limiter.take().unwrap())
            .collect();
        for (slot, _) in &greedy {
            assert_eq!(slot.admit(&image("a")), Ok(()));
        }
        let (more, mut more_evicted) = limiter.take().unwrap();
        assert_eq!(more.admit(&image("a")), Err(NoSlot::ImageFull));
        let (other, _other_evicted) = limiter.take().unwrap();
        assert_eq!(other.admit(&image("b")), Ok(()));
        // Who was refused still negotiates, and can be evicted.
        let (newest, _newest_evicted) = limiter.take().unwrap();
        assert_eq!(more_evicted.try_recv(), Ok(()));
        drop(more);
        assert_eq!(newest.admit(&image("a")), Err(NoSlot::ImageFull));
        // So does who had a slot and did not get the image.
        greedy[0].0.release();
        assert_eq!(newest.admit(&image("a")), Ok(()));
        let (_latest, _latest_evicted) = limiter.take().unwrap();
        assert_eq!(greedy[0].0.admit(&image("b")), Err(NoSlot::Evicted));
        drop((greedy, other, newest));
        assert_eq!(limiter.state().per_image.len(), 0);
    }
}
