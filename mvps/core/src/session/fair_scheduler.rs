//! Which connections of an image go on, so that no image gets more turns than another.
//!
//! An executor polls ready tasks one after the other, whoever they belong to: beside an image with
//! a hundred busy connections, one with a single connection has one scheduling turn in a hundred.
//! Here the connections of an image share a few permits and take their turns one after the other,
//! so each image has as many turns as the next one, however many connections it has.
//!
//! After a long turn a connection keeps its permit until the executor polls it again. By then
//! everybody else who was ready has had a turn; only now the next connection of the image goes on.
//! After a short turn the next one goes on at once: holding it up would cost more than the turn
//! took. A connection that is alone needs no permit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// The scheduler of one image. Clones are the same scheduler.
#[derive(Debug, Clone)]
pub struct FairScheduler {
    permits: Arc<Semaphore>,
    connections: Arc<AtomicUsize>,
}

impl FairScheduler {
    /// A scheduler that lets `permits` connections go on at a time: as many as the executor has
    /// threads.
    #[must_use]
    pub fn new(permits: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(permits.max(1))),
            connections: Arc::default(),
        }
    }
}

/// One connection of a scheduler.
pub(super) struct ScheduledConnection {
    scheduler: FairScheduler,
    permit: Permit,
}

enum Permit {
    Free,
    Awaited(BoxFuture<'static, Result<OwnedSemaphorePermit, AcquireError>>),
    Held(#[expect(dead_code, reason = "given back when dropped")] OwnedSemaphorePermit),
}

impl ScheduledConnection {
    pub(super) fn new(scheduler: FairScheduler) -> Self {
        scheduler.connections.fetch_add(1, Ordering::Relaxed);
        Self {
            scheduler,
            permit: Permit::Free,
        }
    }

    /// Ready when it is this connection's turn. A permit of an earlier turn goes to the next one.
    pub(super) fn poll_begin(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if matches!(self.permit, Permit::Held(_)) {
            self.permit = Permit::Free;
        }
        if self.scheduler.connections.load(Ordering::Relaxed) == 1 {
            self.permit = Permit::Free;
            return Poll::Ready(());
        }
        if matches!(self.permit, Permit::Free) {
            let permits = Arc::clone(&self.scheduler.permits);
            self.permit = match Arc::clone(&permits).try_acquire_owned() {
                Ok(permit) => Permit::Held(permit),
                Err(_) => Permit::Awaited(permits.acquire_owned().boxed()),
            };
        }
        if let Permit::Awaited(permit) = &mut self.permit {
            let permit = ready!(permit.as_mut().poll(context));
            self.permit = Permit::Held(permit.expect("the semaphore is never closed"));
        }
        Poll::Ready(())
    }

    /// The turn is over.
    pub(super) fn end(&mut self, context: &mut Context<'_>, was_long: bool) {
        if let Permit::Held(_) = self.permit {
            if was_long {
                context.waker().wake_by_ref();
            } else {
                self.permit = Permit::Free;
            }
        }
    }
}

impl Drop for ScheduledConnection {
    fn drop(&mut self) {
        self.scheduler.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::task::noop_waker;

    use super::*;

    #[test]
    fn connections_of_an_image_go_on_one_after_the_other() {
        let waker = noop_waker();
        let mut context = Context::from_waker(&waker);
        let scheduler = FairScheduler::new(1);
        let mut one = ScheduledConnection::new(scheduler.clone());
        // Who is alone need not ask.
        for _ in 0..3 {
            assert!(one.poll_begin(&mut context).is_ready());
            one.end(&mut context, true);
        }
        assert_eq!(scheduler.permits.available_permits(), 1);
        let (mut two, mut three) = (
            ScheduledConnection::new(scheduler.clone()),
            ScheduledConnection::new(scheduler.clone()),
        );
        assert!(one.poll_begin(&mut context).is_ready());
        one.end(&mut context, true);
        assert!(two.poll_begin(&mut context).is_pending());
        assert!(three.poll_begin(&mut context).is_pending());
        // The first one is back: now it is the second one's turn.
        assert!(one.poll_begin(&mut context).is_pending());
        assert!(three.poll_begin(&mut context).is_pending());
        assert!(two.poll_begin(&mut context).is_ready());
        // A short turn: it need not come back for the third one to go on.
        two.end(&mut context, false);
        assert!(three.poll_begin(&mut context).is_ready());
        drop(three);
        assert!(one.poll_begin(&mut context).is_ready());
        drop(two);
        assert!(one.poll_begin(&mut context).is_ready());
        assert_eq!(scheduler.permits.available_permits(), 1);
    }
}
