//! Crashes at a call of the environment: the process stops dead right before or right after a call
//! to the object store or the buffer store, and the driver, who is told at once, ends it.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::journal::Journal;

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
            has_tripped: false,
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
            match state.left {
                None => false,
                Some(0) => {
                    if !state.has_tripped {
                        state.has_tripped = true;
                        self.journal.fault(process, call);
                        self.tripped.notify_one();
                    }
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
