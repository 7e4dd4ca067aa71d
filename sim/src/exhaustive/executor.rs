//! A small executor with virtual time: one thread, first come, first served, and a timer fires only
//! when nothing else can run. Two runs of the same tasks are the same, step by step.
//!
//! Every task belongs to a process. A killed process is never polled again and its tasks are
//! dropped at once; a frozen one keeps everything and goes on where it stopped. Nothing here knows
//! of madsim: the enumeration starts hundreds of thousands of worlds, and needs only this much of a
//! runtime.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;

/// Names a process of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessId(pub u32);

/// Why [`Executor::run`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// What was waited for is there.
    Reached,
    /// The time is over, or nothing will ever happen again.
    Idle,
}

/// What tasks reach of their executor.
#[derive(Clone, Default)]
pub struct Handle(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    now: Duration,
    next: u64,
    ready: VecDeque<u64>,
    queued: BTreeSet<u64>,
    arrivals: Vec<(u64, ProcessId, BoxFuture<'static, ()>)>,
    timers: BTreeMap<(Duration, u64), Waker>,
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn wake(&mut self, task: u64) {
        if self.queued.insert(task) {
            self.ready.push_back(task);
        }
    }
}

impl Handle {
    fn state(&self) -> MutexGuard<'_, State> {
        // A task that panics ends its world, never the bookkeeping.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Virtual time since the world began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.state().now
    }

    /// Starts a task of `process`.
    pub fn spawn(&self, process: ProcessId, task: BoxFuture<'static, ()>) {
        let mut state = self.state();
        let number = state.number();
        state.arrivals.push((number, process, task));
        state.wake(number);
    }

    /// Ends after `duration` of virtual time.
    #[must_use]
    pub fn sleep(&self, duration: Duration) -> Sleep {
        let mut state = self.state();
        let at = (state.now.saturating_add(duration), state.number());
        drop(state);
        Sleep {
            handle: self.clone(),
            at,
        }
    }
}

/// See [`Handle::sleep`].
pub struct Sleep {
    handle: Handle,
    at: (Duration, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.handle.state();
        if state.now >= self.at.0 {
            state.timers.remove(&self.at);
            return Poll::Ready(());
        }
        state.timers.insert(self.at, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let gone = self.handle.state().timers.remove(&self.at);
        // A waker is dropped outside of the lock: it may hold the last reference to the handle.
        drop(gone);
    }
}

struct TaskWaker {
    handle: Handle,
    task: u64,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.handle.state().wake(self.task);
    }
}

struct Task {
    process: ProcessId,
    future: BoxFuture<'static, ()>,
    waker: Waker,
}

/// Runs the tasks of all processes on one thread, in virtual time.
#[derive(Default)]
pub struct Executor {
    handle: Handle,
    tasks: BTreeMap<u64, Task>,
    dead: BTreeSet<ProcessId>,
    frozen: BTreeSet<ProcessId>,
    /// Tasks of frozen processes that were woken.
    waiting: Vec<u64>,
}

impl Executor {
    /// What tasks reach of it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until `reached`, or until no task can run before `deadline`.
    pub fn run(&mut self, deadline: Duration, reached: impl Fn() -> bool) -> Pause {
        loop {
            if reached() {
                return Pause::Reached;
            }
            self.admit();
            if let Some(task) = self.next_ready() {
                self.poll(task);
            } else if !self.advance(deadline) {
                return Pause::Idle;
            }
        }
    }

    fn admit(&mut self) {
        let arrivals = std::mem::take(&mut self.handle.state().arrivals);
        for (number, process, future) in arrivals {
            if self.dead.contains(&process) {
                continue;
            }
            let waker = Waker::from(Arc::new(TaskWaker {
                handle: self.handle.clone(),
                task: number,
            }));
            let task = Task {
                process,
                future,
                waker,
            };
            self.tasks.insert(number, task);
        }
    }

    fn next_ready(&mut self) -> Option<u64> {
        let mut state = self.handle.state();
        let task = state.ready.pop_front()?;
        state.queued.remove(&task);
        Some(task)
    }

    fn poll(&mut self, number: u64) {
        let Some(task) = self.tasks.get_mut(&number) else {
            return;
        };
        if self.frozen.contains(&task.process) {
            self.waiting.push(number);
            return;
        }
        let waker = task.waker.clone();
        let ended = task.future.as_mut().poll(&mut Context::from_waker(&waker));
        if ended.is_ready() {
            let gone = self.tasks.remove(&number);
            drop(gone);
        }
    }

    /// Lets the next timer fire, unless it is due after `deadline`.
    fn advance(&self, deadline: Duration) -> bool {
        let mut state = self.handle.state();
        let Some((at, _)) = state.timers.first_key_value() else {
            return false;
        };
        if at.0 > deadline {
            return false;
        }
        let ((at, _), waker) = state.timers.pop_first().expect("it was there just now");
        state.now = state.now.max(at);
        drop(state);
        waker.wake();
        true
    }

    /// Nothing of `process` runs any more, and nothing of it is left.
    pub fn kill(&mut self, process: ProcessId) {
        self.dead.insert(process);
        self.admit();
        let of_it = |task: &Task| task.process == process;
        let numbers: Vec<u64> = self
            .tasks
            .iter()
            .filter(|(_, task)| of_it(task))
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            let gone = self.tasks.remove(&number);
            drop(gone);
        }
    }

    /// Nothing of `process` runs until it is thawed.
    pub fn freeze(&mut self, process: ProcessId) {
        self.frozen.insert(process);
    }

    /// `process` goes on.
    pub fn thaw(&mut self, process: ProcessId) {
        self.frozen.remove(&process);
        let mut state = self.handle.state();
        for task in self.waiting.drain(..) {
            state.wake(task);
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // Tasks hold the handle, and the handle may hold tasks.
        let arrivals = std::mem::take(&mut self.handle.state().arrivals);
        drop(arrivals);
    }
}
