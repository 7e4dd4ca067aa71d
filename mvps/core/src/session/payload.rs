//! Room for the payload of writes, of one image and of all images of a server together.
//!
//! A write's payload is received only once there is room for all of it, and gives the room back when
//! the write has finished. Who waits for room holds none that another one waits for, except its
//! image's own share, so a waiting image stops no other. Small writes of a connection that has
//! nothing else in flight need no room: a connection always gets on, whatever others do.
//!
//! Reads need no room here. What they wait for may be an object store that is away, and that must
//! not stop a write; each connection's own limit bounds them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::limits::{IMAGE_PAYLOAD_MAX_BYTES, PAYLOAD_EXEMPT_BYTES, SERVER_PAYLOAD_MAX_BYTES};

/// Room is counted in units of this many bytes.
const UNIT_BYTES: u64 = 4096;

/// The room of one image within that of its server. Clones are the same room.
#[derive(Debug, Clone)]
pub struct PayloadRoom {
    image: Arc<Semaphore>,
    server: Arc<Semaphore>,
}

/// Room that was taken, until dropped.
#[derive(Debug)]
pub(super) struct Taken(
    #[expect(dead_code, reason = "held to be dropped")] [OwnedSemaphorePermit; 2],
);

impl PayloadRoom {
    /// The room of an image of a new server.
    #[must_use]
    pub fn new() -> Self {
        Self {
            image: semaphore(IMAGE_PAYLOAD_MAX_BYTES),
            server: semaphore(SERVER_PAYLOAD_MAX_BYTES),
        }
    }

    /// The room of another image of the same server.
    #[must_use]
    pub fn of_another_image(&self) -> Self {
        Self {
            image: semaphore(IMAGE_PAYLOAD_MAX_BYTES),
            server: Arc::clone(&self.server),
        }
    }

    fn try_take(&self, units: u32) -> Result<Taken, TryAcquireError> {
        let image = Arc::clone(&self.image).try_acquire_many_owned(units)?;
        let server = Arc::clone(&self.server).try_acquire_many_owned(units)?;
        Ok(Taken([image, server]))
    }

    async fn take(self, units: u32) -> Result<Taken, AcquireError> {
        let image = self.image.acquire_many_owned(units).await?;
        let server = self.server.acquire_many_owned(units).await?;
        Ok(Taken([image, server]))
    }
}

fn semaphore(bytes: u64) -> Arc<Semaphore> {
    let units = usize::try_from(bytes / UNIT_BYTES).expect("the limit fits memory");
    Arc::new(Semaphore::new(units))
}

impl Default for PayloadRoom {
    fn default() -> Self {
        Self::new()
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<Taken, AcquireError>> + Send>>;

/// One connection's way to the room.
pub(super) struct PayloadQueue {
    room: PayloadRoom,
    waiting: Option<Waiting>,
}

impl PayloadQueue {
    pub(super) fn new(room: PayloadRoom) -> Self {
        Self {
            room,
            waiting: None,
        }
    }

    /// Takes room for a payload of `bytes`, while `in_flight` bytes of the connection are under way;
    /// `None` if it needs none. Pending until there is enough: ask for the same again then.
    pub(super) fn poll_take(
        &mut self,
        context: &mut Context<'_>,
        bytes: u64,
        in_flight: u64,
    ) -> Poll<Option<Taken>> {
        if self.waiting.is_none() && (bytes == 0 || in_flight + bytes <= PAYLOAD_EXEMPT_BYTES) {
            return Poll::Ready(None);
        }
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).expect("a payload is bounded");
        if self.waiting.is_none()
            && let Ok(taken) = self.room.try_take(units)
        {
            return Poll::Ready(Some(taken));
        }
        let room = &self.room;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(room.clone().take(units)));
        let Poll::Ready(taken) = waiting.as_mut().poll(context) else {
            return Poll::Pending;
        };
        self.waiting = None;
        Poll::Ready(Some(taken.expect("the room is never closed")))
    }

    /// Gives the place in the queue up.
    pub(super) fn leave(&mut self) {
        self.waiting = None;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::task::noop_waker;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_full_image_stops_neither_others_nor_small_writes() {
        let waker = noop_waker();
        let mut context = Context::from_waker(&waker);
        let room = PayloadRoom::new();
        let (mut one, mut two) = (
            PayloadQueue::new(room.clone()),
            PayloadQueue::new(room.clone()),
        );
        let mut other = PayloadQueue::new(room.of_another_image());
        let first = one.poll_take(&mut context, IMAGE_PAYLOAD_MAX_BYTES, 0);
        assert!(matches!(first, Poll::Ready(Some(_))));
        assert!(two.poll_take(&mut context, MIB, 0).is_pending());
        assert!(matches!(
            other.poll_take(&mut context, 32 * MIB, 0),
            Poll::Ready(Some(_))
        ));
        let mut small = PayloadQueue::new(room.clone());
        assert!(matches!(
            small.poll_take(&mut context, 4096, 0),
            Poll::Ready(None)
        ));
        drop(first);
        assert!(matches!(
            two.poll_take(&mut context, MIB, 0),
            Poll::Ready(Some(_))
        ));
        assert_eq!(
            room.server.available_permits() as u64 * UNIT_BYTES,
            SERVER_PAYLOAD_MAX_BYTES
        );
    }

    #[test]
    fn who_leaves_the_queue_keeps_no_room() {
        let waker = noop_waker();
        let mut context = Context::from_waker(&waker);
        let room = PayloadRoom::new();
        let (mut one, mut two) = (PayloadQueue::new(room.clone()), PayloadQueue::new(room));
        let first = one.poll_take(&mut context, IMAGE_PAYLOAD_MAX_BYTES, 0);
        assert!(one.poll_take(&mut context, MIB, 0).is_pending());
        assert!(two.poll_take(&mut context, 2 * MIB, 0).is_pending());
        drop(first);
        one.leave();
        assert!(matches!(
            two.poll_take(&mut context, 2 * MIB, 0),
            Poll::Ready(Some(_))
        ));
    }
}
