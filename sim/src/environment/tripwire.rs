//! Crashes at a call of the environment: the process stops dead right before or right after a call
//! to the object store or the buffer store, and the driver, who is told at once, ends it.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::journal::Journal;

/// Calls of servers that are rare, by the names of their crashes.
pub const RARE_CALLS: [&str; 5] = [
    "crash: at a buffer drop",
    "crash: at a buffer seal",
    "crash: at an upload",
    "crash: at a put",
    "crash: at buffer metadata",
];

/// The crash of a collector that deletes.
pub const DELETION: &str = "crash: at a delete";

/// Stops a machine's processes dead at one of their calls. Clones share it.
#[derive(Clone)]
pub struct Tripwire {
    state: Arc<Mutex<State>>,
    tripped: Arc<Notify>,
    journal: Journal,
}

#[derive(Default)]
struct State {
    /// Calls that still pass; `None` if the wire is not armed.
    left: Option<u64>,
    /// Only calls of this kind count.
    only: Option<&'static str>,
    has_tripped: bool,
}

impl Tripwire {
    /// A wire that is not armed.
    #[must_use]
    pub fn new(journal: &Journal) -> Self {
        Self {
            state: Arc::default(),
            tripped: Arc::new(Notify::new()),
            journal: journal.clone(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }

    /// Lets `calls` more calls pass.
    pub fn arm(&self, calls: u64) {
        *self.state() = State {
            left: Some(calls),
            ..State::default()
        };
    }

    /// Lets `calls` more calls of one kind pass, and all of the others.
    pub fn arm_at(&self, kind: &'static str, calls: u64) {
        *self.state() = State {
            left: Some(calls),
            only: Some(kind),
            ..State::default()
        };
    }

    /// Lets every call pass.
    pub fn disarm(&self) {
        *self.state() = State::default();
    }

    /// Waits until a process stopped at the wire.
    pub async fn tripped(&self) {
        while !self.state().has_tripped {
            self.tripped.notified().await;
        }
    }

    /// A call begins or ends. Who trips never goes on, and nobody after it does.
    pub async fn pass(&self, process: &str, call: &'static str) {
        let stops = {
            let mut state = self.state();
            let counts = state.only.is_none_or(|only| only == call);
            match state.left {
                // Who tripped never goes on.
                _ if state.has_tripped => true,
                None => false,
                Some(_) if !counts => false,
                Some(0) => {
                    state.has_tripped = true;
                    self.journal.fault(process, call);
                    self.tripped.notify_one();
                    true
                }
                Some(left) => {
                    state.left = Some(left - 1);
                    false
                }
            }
        };
        if stops {
            std::future::pending::<()>().await;
        }
    }
}
