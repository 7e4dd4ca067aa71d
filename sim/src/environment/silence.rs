//! Times in which no client asks for anything: what was committed before has to land all the same.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::journal;

/// When clients begin nothing new. Clones share it.
#[derive(Clone, Default)]
pub struct Silence(Arc<Mutex<Duration>>);

impl Silence {
    /// Nobody begins anything for `duration`.
    pub fn begin(&self, duration: Duration) {
        *self.0.lock().expect("nothing panics under this lock") = journal::now() + duration;
    }

    /// How long it still lasts.
    #[must_use]
    pub fn left(&self) -> Duration {
        let until = *self.0.lock().expect("nothing panics under this lock");
        until.saturating_sub(journal::now())
    }
}
