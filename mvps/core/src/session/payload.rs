//! Room for the payload of writes, of one image and of all images of a server together.
//!
//! A write's payload is received only once there is room for all of it, and gives the room back when
//! the write has finished. Who waits for room holds none that another one waits for, except its
//! image's own share, so a waiting image stops no other. Small writes of a connection that has
//! nothing else in flight need no room: a connection always gets on, whatever others do.
//!
//! The content of reads and the extents of statuses, from their begin until the client has taken
//! them, have room of their own: what
//! they wait for may be an object store that is away, or a client that does not read, and neither
//! must stop a write. Here, too, a little per connection is exempt.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::limits::{
    IMAGE_PAYLOAD_MAX_BYTES, IMAGE_READS_MAX_BYTES, PAYLOAD_EXEMPT_BYTES, SERVER_PAYLOAD_MAX_BYTES,
    SERVER_READS_MAX_BYTES,
};

/// Room is counted in units of this many bytes.
const UNIT_BYTES: u64 = 4096;

/// The room of one image within that of its server. Clones are the same room.
#[derive(Debug, Clone)]
pub struct PayloadRoom {
    writes: Room,
    reads: Room,
}

/// Room of one kind.
#[derive(Debug, Clone)]
struct Room {
    image: Arc<Semaphore>,
    server: Arc<Semaphore>,
}

/// Room that was taken, until dropped.
#[derive(Debug)]
pub(super) struct Taken([OwnedSemaphorePermit; 2]);

impl PayloadRoom {
    /// The room of an image of a new server.
    #[must_use]
    pub fn new() -> Self {
        let room = |image, server| Room {
            image: semaphore(image),
            server: semaphore(server),
        };
        Self {
            writes: room(IMAGE_PAYLOAD_MAX_BYTES, SERVER_PAYLOAD_MAX_BYTES),
            reads: room(IMAGE_READS_MAX_BYTES, SERVER_READS_MAX_BYTES),
        }
    }

    /// The room of another image of the same server.
    #[must_use]
    pub fn of_another_image(&self) -> Self {
        let room = |image, of: &Room| Room {
            image: semaphore(image),
            server: Arc::clone(&of.server),
        };
        Self {
            writes: room(IMAGE_PAYLOAD_MAX_BYTES, &self.writes),
            reads: room(IMAGE_READS_MAX_BYTES, &self.reads),
        }
    }
}

impl Room {
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

impl Taken {
    fn bytes(&self) -> u64 {
        self.0[0].num_permits() as u64 * UNIT_BYTES
    }

    fn merge(&mut self, other: Self) {
        for (mine, more) in self.0.iter_mut().zip(other.0) {
            mine.merge(more);
        }
    }

    /// Gives back all but `bytes`, in whole units.
    fn shrink(&mut self, bytes: u64) {
        let keep = usize::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(usize::MAX);
        for permit in &mut self.0 {
            let surplus = permit.num_permits().saturating_sub(keep);
            drop(permit.split(surplus));
        }
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
    /// For the content of reads that is under way or on its way out.
    reads: Option<Taken>,
    reads_waiting: Option<Waiting>,
}

impl PayloadQueue {
    pub(super) fn new(room: PayloadRoom) -> Self {
        Self {
            room,
            waiting: None,
            reads: None,
            reads_waiting: None,
        }
    }

    /// Makes sure that there is room for all that is under way, with what is about to begin:
    /// `bytes` altogether. Pending until there is: ask for the same again then.
    pub(super) fn poll_reach(&mut self, context: &mut Context<'_>, bytes: u64) -> Poll<()> {
        let held = self.reads.as_ref().map_or(0, Taken::bytes);
        if bytes <= PAYLOAD_EXEMPT_BYTES + held {
            self.reads_waiting = None;
            return Poll::Ready(());
        }
        let missing = bytes.saturating_sub(PAYLOAD_EXEMPT_BYTES + held);
        let units =
            u32::try_from(missing.div_ceil(UNIT_BYTES)).expect("what is under way is bounded");
        let room = &self.room.reads;
        let more = match (&mut self.reads_waiting, room.try_take(units)) {
            (None, Ok(taken)) => taken,
            (waiting, _) => {
                let waiting = waiting.get_or_insert_with(|| Box::pin(room.clone().take(units)));
                let Poll::Ready(taken) = waiting.as_mut().poll(context) else {
                    return Poll::Pending;
                };
                self.reads_waiting = None;
                taken.expect("the room is never closed")
            }
        };
        match &mut self.reads {
            Some(reads) => reads.merge(more),
            None => self.reads = Some(more),
        }
        Poll::Ready(())
    }

    /// Bytes that may wait for the client to take them: those that it has room for, and the exempt.
    pub(super) fn unread_max(&self) -> u64 {
        PAYLOAD_EXEMPT_BYTES + self.reads.as_ref().map_or(0, Taken::bytes)
    }

    /// Gives up what [`Self::poll_reach`] waits for.
    pub(super) fn stop_reaching(&mut self) {
        self.reads_waiting = None;
    }

    /// Gives back what is not needed for `bytes` that are under way.
    pub(super) fn settle_at(&mut self, bytes: u64) {
        let needed = bytes.saturating_sub(PAYLOAD_EXEMPT_BYTES);
        if needed == 0 {
            self.reads = None;
        } else if let Some(reads) = &mut self.reads {
            reads.shrink(needed);
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
        if bytes == 0 || in_flight + bytes <= PAYLOAD_EXEMPT_BYTES {
            // What was in flight when it began to wait may be gone by now.
            self.waiting = None;
            return Poll::Ready(None);
        }
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).expect("a payload is bounded");
        if self.waiting.is_none()
            && let Ok(taken) = self.room.writes.try_take(units)
        {
            return Poll::Ready(Some(taken));
        }
        let room = &self.room;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(room.writes.clone().take(units)));
        let Poll::Ready(taken) = waiting.as_mut().poll(context) else {
            return Poll::Pending;
        };
        self.waiting = None;
        Poll::Ready(Some(taken.expect("the room is never closed")))
    }

    /// Gives the place in the queue up.
    pub(super) fn leave(&mut self) {
        self.waiting = None;
        self.reads_waiting = None;
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
            room.writes.server.available_permits() as u64 * UNIT_BYTES,
            SERVER_PAYLOAD_MAX_BYTES
        );
    }

    #[test]
    fn reads_have_room_of_their_own_and_give_it_back() {
        let waker = noop_waker();
        let mut context = Context::from_waker(&waker);
        let room = PayloadRoom::new();
        let mut queues: Vec<_> = (0..6).map(|_| PayloadQueue::new(room.clone())).collect();
        // Two connections take all that the image has; a third must wait.
        for queue in &mut queues[..2] {
            let bytes = 32 * MIB + PAYLOAD_EXEMPT_BYTES;
            assert!(queue.poll_reach(&mut context, bytes).is_ready());
        }
        assert!(queues[2].poll_reach(&mut context, 32 * MIB).is_pending());
        // What is exempt gets through, and so do writes and other images.
        assert!(
            queues[3]
                .poll_reach(&mut context, PAYLOAD_EXEMPT_BYTES)
                .is_ready()
        );
        assert!(queues[3].poll_take(&mut context, MIB, 0).is_ready());
        let mut other = PayloadQueue::new(room.of_another_image());
        assert!(other.poll_reach(&mut context, 32 * MIB).is_ready());
        // The client takes half of what it asked for.
        queues[0].settle_at(16 * MIB);
        assert!(queues[2].poll_reach(&mut context, 32 * MIB).is_pending());
        queues[1].settle_at(0);
        assert!(queues[2].poll_reach(&mut context, 32 * MIB).is_ready());
        queues.clear();
        drop(other);
        for (semaphore, bytes) in [
            (&room.reads.image, IMAGE_READS_MAX_BYTES),
            (&room.reads.server, SERVER_READS_MAX_BYTES),
        ] {
            assert_eq!(semaphore.available_permits() as u64 * UNIT_BYTES, bytes);
        }
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
