//! Whose turn it is among the connections of an image.
//!
//! An executor runs ready tasks by turns, whoever they belong to: beside an image with a hundred busy
//! connections, one with a single connection has one turn in a hundred. Here the connections of an
//! image take their turns one after the other, a few at a time, so that each image has as many turns
//! as the next one, however many connections it has.
//!
//! Who had a long turn keeps the right to it until the executor comes back to it, which is when
//! everybody else who was ready has had a turn; only then the next connection of the image goes on.
//! After a short one the next goes on at once: holding it up would cost more than it took. A connection
//! that is alone needs none of this.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// The turns of an image. Clones are the same turns.
#[derive(Debug, Clone)]
pub struct Turns {
    rights: Arc<Semaphore>,
    connections: Arc<AtomicUsize>,
}

impl Turns {
    /// Turns of which `at_once` are taken at a time: as many as the executor has threads.
    #[must_use]
    pub fn new(at_once: usize) -> Self {
        Self {
            rights: Arc::new(Semaphore::new(at_once.max(1))),
            connections: Arc::default(),
        }
    }
}

/// One connection's part in them.
pub(super) struct Turn {
    turns: Turns,
    right: Right,
}

enum Right {
    Free,
    Awaited(BoxFuture<'static, Result<OwnedSemaphorePermit, AcquireError>>),
    Held(#[expect(dead_code, reason = "given back when dropped")] OwnedSemaphorePermit),
}

impl Turn {
    pub(super) fn new(turns: Turns) -> Self {
        turns.connections.fetch_add(1, Ordering::Relaxed);
        Self {
            turns,
            right: Right::Free,
        }
    }

    /// Ready when it is this connection's turn. What it had of an earlier one goes to the next.
    pub(super) fn poll_begin(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if matches!(self.right, Right::Held(_)) {
            self.right = Right::Free;
        }
        if self.turns.connections.load(Ordering::Relaxed) == 1 {
            self.right = Right::Free;
            return Poll::Ready(());
        }
        if matches!(self.right, Right::Free) {
            let rights = Arc::clone(&self.turns.rights);
            self.right = match Arc::clone(&rights).try_acquire_owned() {
                Ok(right) => Right::Held(right),
                Err(_) => Right::Awaited(rights.acquire_owned().boxed()),
            };
        }
        if let Right::Awaited(right) = &mut self.right {
            let right = ready!(right.as_mut().poll(context));
            self.right = Right::Held(right.expect("the rights are never closed"));
        }
        Poll::Ready(())
    }

    /// The turn is over.
    pub(super) fn end(&mut self, context: &mut Context<'_>, was_long: bool) {
        if let Right::Held(_) = self.right {
            if was_long {
                context.waker().wake_by_ref();
            } else {
                self.right = Right::Free;
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.connections.fetch_sub(1, Ordering::Relaxed);
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
        let turns = Turns::new(1);
        let mut one = Turn::new(turns.clone());
        // Who is alone need not ask.
        for _ in 0..3 {
            assert!(one.poll_begin(&mut context).is_ready());
            one.end(&mut context, true);
        }
        assert_eq!(turns.rights.available_permits(), 1);
        let (mut two, mut three) = (Turn::new(turns.clone()), Turn::new(turns.clone()));
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
        assert_eq!(turns.rights.available_permits(), 1);
    }
}
