//! Servers that share a stable reader id: one after the other on one machine, or at once on two,
//! because a folder was copied. Here is what the seed knows of them, and they do not know of each
//! other.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use mvps_core::ids::ImageId;
use mvps_core::token::Shown;
use tokio::sync::watch;

use crate::journal::Journal;
use crate::model::machine_of;

/// The servers of one stable reader id.
pub struct ReaderGroup {
    /// The id.
    pub stable: String,
    journal: Journal,
    state: Mutex<State>,
    begun: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// What each process reads.
    reading: BTreeMap<String, ImageId>,
    /// What was read last, of the site of this number.
    last: Option<(usize, Shown)>,
}

impl ReaderGroup {
    /// Nobody has the id `stable` yet.
    #[must_use]
    pub fn new(stable: &str, journal: &Journal) -> Self {
        Self {
            stable: stable.to_owned(),
            journal: journal.clone(),
            state: Mutex::default(),
            begun: watch::Sender::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }

    /// `process` reads a version of `image` from now on.
    pub fn begins(&self, process: &str, image: &ImageId) {
        let mut state = self.state();
        let mut others = state.reading.iter();
        if others.any(|(other, read)| other != process && read == image) {
            self.journal.mark("two lives of one reader id read at once");
        }
        state.reading.insert(process.to_owned(), image.clone());
        self.begun.send_modify(|begun| *begun += 1);
    }

    /// `process` reads no more.
    pub fn ends(&self, process: &str) {
        self.state().reading.remove(process);
    }

    /// Whether a process on `machine` reads a version of `image`.
    #[must_use]
    pub fn reads(&self, machine: &str, image: &ImageId) -> bool {
        let state = self.state();
        let mut reading = state.reading.iter();
        reading.any(|(process, read)| machine_of(process) == machine && read == image)
    }

    /// Changes whenever somebody begins to read.
    #[must_use]
    pub fn begun(&self) -> watch::Receiver<u64> {
        self.begun.subscribe()
    }

    /// What was read last.
    #[must_use]
    pub fn last(&self) -> Option<(usize, Shown)> {
        self.state().last.clone()
    }

    /// `shown` of the site `number` is read next.
    pub fn chose(&self, number: usize, shown: &Shown) {
        self.state().last = Some((number, shown.clone()));
    }
}
