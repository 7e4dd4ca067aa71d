//! What happened, in order: the digest that two runs of a seed must share, the timeline that a
//! reader gets, how often each fault struck, and which rare situations were reached.
//!
//! Invariant: every event that crosses a trait is recorded with its simulated time, so two runs
//! with equal digests did the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use madsim::time::TimeHandle;
use xxhash_rust::xxh3::Xxh3;

/// Events in one block of the digest: on a mismatch the first differing block is printed.
pub const BLOCK_EVENTS: u64 = 256;

/// Oracles are numbered from 1 to this; see the README.
pub const ORACLES: usize = 12;

/// How often each oracle was asked, by its number.
pub type Checks = [u64; ORACLES + 1];

/// Last events that a failure shows.
const TAIL_EVENTS: usize = 80;

/// Names what a planted oracle forbids, separated by bars: that all of it is in the timeline, in
/// this order. It is there to be violated, so that shrinking can be tested.
pub const PLANTED_VARIABLE: &str = "SIM_PLANTED";

/// A kind of choice that a case can switch off, one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Choice {
    /// What happens to a server.
    Event,
    /// A client's request or transaction.
    Operation,
    /// A fault of the object store.
    Fault,
}

impl Choice {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Event, Self::Operation, Self::Fault];

    /// Its name in a case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Event => "events",
            Self::Operation => "operations",
            Self::Fault => "faults",
        }
    }
}

/// The record of a run. Clones share it.
#[derive(Clone)]
pub struct Journal(Arc<Mutex<State>>);

struct State {
    digest: Xxh3,
    events: u64,
    blocks: Vec<u64>,
    tail: VecDeque<String>,
    timeline: Timeline,
    faults: BTreeMap<&'static str, Fault>,
    checks: Checks,
    marks: BTreeMap<&'static str, u64>,
    only: BTreeMap<Choice, BTreeSet<u64>>,
    skips: BTreeMap<Choice, BTreeSet<u64>>,
    choices: BTreeMap<Choice, u64>,
    /// What the planted oracle still waits for; nothing if there is none.
    planted: VecDeque<String>,
}

/// A fault that struck.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fault {
    /// How often it struck.
    pub count: u64,
    /// How often each oracle was asked since: before it when it is recorded, after it when it is
    /// reported.
    pub checks: Checks,
}

/// What is printed while a seed runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Timeline {
    /// Nothing is printed.
    #[default]
    Off,
    /// Every event is printed.
    All,
    /// The events of one block.
    Block(u64),
}

impl Journal {
    /// An empty journal.
    #[must_use]
    pub fn new(timeline: Timeline) -> Self {
        Self(Arc::new(Mutex::new(State {
            digest: Xxh3::new(),
            events: 0,
            blocks: Vec::new(),
            tail: VecDeque::new(),
            timeline,
            faults: BTreeMap::new(),
            checks: [0; ORACLES + 1],
            marks: BTreeMap::new(),
            only: BTreeMap::new(),
            skips: BTreeMap::new(),
            choices: BTreeMap::new(),
            planted: planted(),
        })))
    }

    /// The choices of `skips`, and of the kinds in `only` all others, will be drawn and not carried
    /// out.
    #[must_use]
    pub fn choosing(
        self,
        only: BTreeMap<Choice, BTreeSet<u64>>,
        skips: BTreeMap<Choice, BTreeSet<u64>>,
    ) -> Self {
        let mut state = self.state();
        state.only = only;
        state.skips = skips;
        drop(state);
        self
    }

    /// Numbers a choice that was drawn, and says whether it is carried out.
    #[must_use]
    pub fn happens(&self, choice: Choice) -> bool {
        let mut state = self.state();
        let next = state.choices.entry(choice).or_default();
        let number = *next;
        *next += 1;
        let listed = |lists: &BTreeMap<Choice, BTreeSet<u64>>| {
            lists.get(&choice).map(|numbers| numbers.contains(&number))
        };
        listed(&state.only).unwrap_or(true) && !listed(&state.skips).unwrap_or(false)
    }

    /// How many choices of each kind were drawn, in the order of [`Choice::ALL`].
    #[must_use]
    pub fn choices(&self) -> Vec<u64> {
        let state = self.state();
        let count = |choice| state.choices.get(&choice).copied().unwrap_or(0);
        Choice::ALL.map(count).to_vec()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Records that `what` happened at `node`.
    pub fn note(&self, node: &str, what: fmt::Arguments<'_>) {
        let line = format!("{} {node:<9} {what}", clock(now()));
        let mut state = self.state();
        state.digest.update(line.as_bytes());
        let block = state.events / BLOCK_EVENTS;
        if state.timeline == Timeline::All || state.timeline == Timeline::Block(block) {
            print_line(&line);
        }
        state.events += 1;
        if state.events.is_multiple_of(BLOCK_EVENTS) {
            let digest = state.digest.digest();
            state.blocks.push(digest);
        }
        if state.tail.len() == TAIL_EVENTS {
            state.tail.pop_front();
        }
        let met = state.planted.front().is_some_and(|it| line.contains(it));
        state.tail.push_back(line);
        if met {
            state.planted.pop_front();
            if state.planted.is_empty() {
                drop(state);
                self.fail("0 (planted)", format_args!("everything was met"));
            }
        }
    }

    /// Counts that a fault struck, and records it: call it where the fault does something, not where it is
    /// planned.
    pub fn fault(&self, node: &str, fault: &'static str) {
        let mut state = self.state();
        let checks = state.checks;
        let entry = state.faults.entry(fault);
        entry.or_insert(Fault { count: 0, checks }).count += 1;
        drop(state);
        self.note(node, format_args!("FAULT {fault}"));
    }

    /// Counts that an oracle was asked, and had nothing to say.
    pub fn checked(&self, oracle: usize) {
        self.state().checks[oracle] += 1;
    }

    /// Counts that a rare situation was reached.
    pub fn mark(&self, mark: &'static str) {
        *self.state().marks.entry(mark).or_default() += 1;
    }

    /// An oracle was violated: ends the run.
    pub fn fail(&self, oracle: &str, what: fmt::Arguments<'_>) -> ! {
        panic!("oracle {oracle}: {what}");
    }

    /// The digest so far.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.state().digest.digest()
    }

    /// How many events there were.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.state().events
    }

    /// The digest after each full block.
    #[must_use]
    pub fn blocks(&self) -> Vec<u64> {
        self.state().blocks.clone()
    }

    /// The last events.
    #[must_use]
    pub fn tail(&self) -> Vec<String> {
        self.state().tail.iter().cloned().collect()
    }

    /// How often each fault struck, and each oracle asked after the first time.
    #[must_use]
    pub fn faults(&self) -> BTreeMap<&'static str, Fault> {
        let state = self.state();
        let after = |fault: &Fault| Fault {
            count: fault.count,
            checks: std::array::from_fn(|oracle| state.checks[oracle] - fault.checks[oracle]),
        };
        let faults = state.faults.iter();
        faults.map(|(name, fault)| (*name, after(fault))).collect()
    }

    /// How often each rare situation was reached.
    #[must_use]
    pub fn marks(&self) -> BTreeMap<&'static str, u64> {
        self.state().marks.clone()
    }
}

fn planted() -> VecDeque<String> {
    let listed = std::env::var(PLANTED_VARIABLE).unwrap_or_default();
    let parts = listed.split('|').filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

/// Simulated time since the beginning.
#[must_use]
pub fn now() -> Duration {
    TimeHandle::current().elapsed()
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!(
        "{:02}:{:02}:{:02}.{:06}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        time.subsec_micros()
    )
}

#[expect(clippy::print_stdout, reason = "the timeline is the program's output")]
fn print_line(line: &str) {
    println!("{line}");
}
