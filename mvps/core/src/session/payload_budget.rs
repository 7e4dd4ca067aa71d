//! Budgets for payload in flight, of one image and of all images of a server together.
//!
//! A write's payload is received only once its bytes are reserved, and the reservation ends when
//! the write has finished. A connection that waits for a reservation holds none that another one
//! waits for, except of its image's own share, so a waiting image stops no other. Small writes of a
//! connection that has nothing else in flight need no reservation: a connection always gets on,
//! whatever others do.
//!
//! The content of reads and the extents of statuses have a budget of their own, from their begin
//! until the client has taken them. What they wait for may be an object store that is away, or a
//! client that does not read, and neither must stop a write. Here, too, a little per connection is
//! exempt.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::limits::{
    IMAGE_PAYLOAD_MAX_BYTES, IMAGE_READS_MAX_BYTES, PAYLOAD_EXEMPT_BYTES, SERVER_PAYLOAD_MAX_BYTES,
    SERVER_READS_MAX_BYTES,
};

/// Budgets are counted in units of this many bytes.
const UNIT_BYTES: u64 = 4096;

/// The budgets of one image within those of its server. Clones are the same budgets.
#[derive(Debug, Clone)]
pub struct PayloadBudget {
    writes: Budget,
    reads: Budget,
}

/// The budget for one kind of payload.
#[derive(Debug, Clone)]
struct Budget {
    image: Arc<Semaphore>,
    server: Arc<Semaphore>,
    /// What each image may take.
    image_bytes: u64,
}

/// Bytes that are reserved until this is dropped.
#[derive(Debug)]
pub(super) struct PayloadReservation([OwnedSemaphorePermit; 2]);

/// The payload of all connections of a server in flight, beside the exempt, in bytes; each no less
/// than the largest request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadLimits {
    /// That of writes.
    pub write_bytes: u64,
    /// The content of reads.
    pub read_bytes: u64,
}

impl Default for PayloadLimits {
    fn default() -> Self {
        Self {
            write_bytes: SERVER_PAYLOAD_MAX_BYTES,
            read_bytes: SERVER_READS_MAX_BYTES,
        }
    }
}

impl PayloadBudget {
    /// The budgets of an image of a new server.
    #[must_use]
    pub fn new(limits: PayloadLimits) -> Self {
        let budget = |image: u64, server: u64| Budget {
            image: semaphore(image.min(server)),
            server: semaphore(server),
            image_bytes: image.min(server),
        };
        Self {
            writes: budget(IMAGE_PAYLOAD_MAX_BYTES, limits.write_bytes),
            reads: budget(IMAGE_READS_MAX_BYTES, limits.read_bytes),
        }
    }

    /// The budgets of another image of the same server.
    #[must_use]
    pub fn of_another_image(&self) -> Self {
        let budget = |of: &Budget| Budget {
            image: semaphore(of.image_bytes),
            server: Arc::clone(&of.server),
            image_bytes: of.image_bytes,
        };
        Self {
            writes: budget(&self.writes),
            reads: budget(&self.reads),
        }
    }
}

impl Budget {
    fn try_reserve(&self, units: u32) -> Result<PayloadReservation, TryAcquireError> {
        let image = Arc::clone(&self.image).try_acquire_many_owned(units)?;
        let server = Arc::clone(&self.server).try_acquire_many_owned(units)?;
        Ok(PayloadReservation([image, server]))
    }

    async fn reserve(self, units: u32) -> Result<PayloadReservation, AcquireError> {
        let image = self.image.acquire_many_owned(units).await?;
        let server = self.server.acquire_many_owned(units).await?;
        Ok(PayloadReservation([image, server]))
    }
}

impl PayloadReservation {
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

impl Default for PayloadBudget {
    fn default() -> Self {
        Self::new(PayloadLimits::default())
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<PayloadReservation, AcquireError>> + Send>>;

/// What one connection has of the budgets, and waits for.
pub(super) struct PayloadQueue {
    budget: PayloadBudget,
    waiting: Option<Waiting>,
    /// For the content of reads that is under way or on its way out.
    reads: Option<PayloadReservation>,
    /// For so many units.
    reads_waiting: Option<(u32, Waiting)>,
}

impl PayloadQueue {
    pub(super) fn new(budget: PayloadBudget) -> Self {
        Self {
            budget,
            waiting: None,
            reads: None,
            reads_waiting: None,
        }
    }

    /// Reserves what is missing for all that is under way, with what is about to begin:
    /// `bytes` altogether. Pending until that much is free: ask for the same again then.
    pub(super) fn poll_reach(&mut self, context: &mut Context<'_>, bytes: u64) -> Poll<()> {
        let held = self.reads.as_ref().map_or(0, PayloadReservation::bytes);
        if bytes <= PAYLOAD_EXEMPT_BYTES + held {
            self.reads_waiting = None;
            return Poll::Ready(());
        }
        let missing = bytes.saturating_sub(PAYLOAD_EXEMPT_BYTES + held);
        let units =
            u32::try_from(missing.div_ceil(UNIT_BYTES)).expect("what is under way is bounded");
        let budget = &self.budget.reads;
        // Something was given back meanwhile: who asks for more than it needs may wait for itself.
        self.reads_waiting = self.reads_waiting.take().filter(|(of, _)| *of <= units);
        let more = match (&mut self.reads_waiting, budget.try_reserve(units)) {
            (None, Ok(reservation)) => reservation,
            (waiting, _) => {
                let (_, waiting) =
                    waiting.get_or_insert_with(|| (units, Box::pin(budget.clone().reserve(units))));
                let Poll::Ready(reservation) = waiting.as_mut().poll(context) else {
                    return Poll::Pending;
                };
                self.reads_waiting = None;
                reservation.expect("the semaphore is never closed")
            }
        };
        match &mut self.reads {
            Some(reads) => reads.merge(more),
            None => self.reads = Some(more),
        }
        Poll::Ready(())
    }

    /// Bytes that may wait for the client to take them: those that are reserved for it, and the
    /// exempt.
    pub(super) fn unread_max(&self) -> u64 {
        PAYLOAD_EXEMPT_BYTES + self.reads.as_ref().map_or(0, PayloadReservation::bytes)
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

    /// Reserves a payload of `bytes`, while `in_flight` bytes of the connection are under way;
    /// `None` if it needs no reservation. Pending until that much is free: ask for the same again
    /// then.
    pub(super) fn poll_reserve(
        &mut self,
        context: &mut Context<'_>,
        bytes: u64,
        in_flight: u64,
    ) -> Poll<Option<PayloadReservation>> {
        if bytes == 0 || in_flight + bytes <= PAYLOAD_EXEMPT_BYTES {
            // What was in flight when it began to wait may be gone by now.
            self.waiting = None;
            return Poll::Ready(None);
        }
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).expect("a payload is bounded");
        if self.waiting.is_none()
            && let Ok(reservation) = self.budget.writes.try_reserve(units)
        {
            return Poll::Ready(Some(reservation));
        }
        let budget = &self.budget;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(budget.writes.clone().reserve(units)));
        let Poll::Ready(reservation) = waiting.as_mut().poll(context) else {
            return Poll::Pending;
        };
        self.waiting = None;
        Poll::Ready(Some(reservation.expect("the semaphore is never closed")))
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
        let budget = PayloadBudget::default();
        let (mut one, mut two) = (
            PayloadQueue::new(budget.clone()),
            PayloadQueue::new(budget.clone()),
        );
        let mut other = PayloadQueue::new(budget.of_another_image());
        let first = one.poll_reserve(&mut context, IMAGE_PAYLOAD_MAX_BYTES, 0);
        assert!(matches!(first, Poll::Ready(Some(_))));
        assert!(two.poll_reserve(&mut context, MIB, 0).is_pending());
        assert!(matches!(
            other.poll_reserve(&mut context, 32 * MIB, 0),
            Poll::Ready(Some(_))
        ));
        let mut small = PayloadQueue::new(budget.clone());
        assert!(matches!(
            small.poll_reserve(&mut context, 4096, 0),
            Poll::Ready(None)
        ));
        drop(first);
        assert!(matches!(
            two.poll_reserve(&mut context, MIB, 0),
            Poll::Ready(Some(_))
        ));
        assert_eq!(
            budget.writes.server.available_permits() as u64 * UNIT_BYTES,
            SERVER_PAYLOAD_MAX_BYTES
        );
    }

    #[test]
    fn reads_have_a_budget_of_their_own_and_give_it_back() {
        let waker = noop_waker();
        let mut context = Context::from_waker(&waker);
        let budget = PayloadBudget::default();
        let mut queues: Vec<_> = (0..6).map(|_| PayloadQueue::new(budget.clone())).collect();
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
        assert!(queues[3].poll_reserve(&mut context, MIB, 0).is_ready());
        let mut other = PayloadQueue::new(budget.of_another_image());
        assert!(other.poll_reach(&mut context, 32 * MIB).is_ready());
        // The client takes half of what it asked for.
        queues[0].settle_at(16 * MIB);
        assert!(queues[2].poll_reach(&mut context, 32 * MIB).is_pending());
        queues[1].settle_at(0);
        assert!(queues[2].poll_reach(&mut context, 32 * MIB).is_ready());
        queues.clear();
        drop(other);
        for (semaphore, bytes) in [
            (&budget.reads.image, IMAGE_READS_MAX_BYTES),
            (&budget.reads.server, SERVER_READS_MAX_BYTES),
        ] {
            assert_eq!(semaphore.available_permits() as u64 * UNIT_BYTES, bytes);
        }
    }

    #[test]
    fn who_leaves_the_queue_keeps_no_reservation() {
        let waker = noop_waker();
        let mut context = Context::from_waker(&waker);
        let budget = PayloadBudget::default();
        let (mut one, mut two) = (PayloadQueue::new(budget.clone()), PayloadQueue::new(budget));
        let first = one.poll_reserve(&mut context, IMAGE_PAYLOAD_MAX_BYTES, 0);
        assert!(one.poll_reserve(&mut context, MIB, 0).is_pending());
        assert!(two.poll_reserve(&mut context, 2 * MIB, 0).is_pending());
        drop(first);
        one.leave();
        assert!(matches!(
            two.poll_reserve(&mut context, 2 * MIB, 0),
            Poll::Ready(Some(_))
        ));
    }
}
