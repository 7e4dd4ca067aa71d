//! Makes a failing run small: leaves out what it does not need, as long as it fails the same way.
//!
//! Delta debugging over three kinds of choices (what happens to servers, requests of clients,
//! faults of the store) and over the numbers of the plan. A choice that is left out is still drawn,
//! so that the arguments of the others stay what they were. What is left is listed as what alone
//! happens, so whatever a run draws beyond it does not happen either: a run never becomes larger
//! by being made smaller.

use crate::case::{Case, KNOBS, Numbers};
use crate::journal::Choice;

/// Runs of the simulation that one shrinking may take, when nothing else is asked for.
pub const RUNS_MAX: u64 = 600;

/// Each of so few choices is tried alone.
const ALONE_MAX: usize = 16;

/// How a case went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The violated oracle.
    pub oracle: Option<String>,
    /// How many choices of each kind it drew.
    pub choices: Vec<u64>,
    /// Events of its timeline.
    pub events: u64,
}

impl Verdict {
    fn drawn(&self, choice: Choice) -> u64 {
        self.choices.get(choice as usize).copied().unwrap_or(0)
    }

    /// The choices of a kind that `case` carried out.
    fn happened(&self, case: &Case, choice: Choice) -> Numbers {
        let skipped = case.skips.get(&choice);
        let only = case.only.get(&choice);
        let happens = |number: &u64| {
            only.is_none_or(|it| it.contains(number))
                && !skipped.is_some_and(|it| it.contains(number))
        };
        (0..self.drawn(choice)).filter(happens).collect()
    }

    /// How many choices of a kind `case` carried out.
    #[must_use]
    pub fn size_of(&self, case: &Case, choice: Choice) -> usize {
        self.happened(case, choice).len()
    }

    /// How many choices `case` carried out, of all kinds: the size of a case.
    #[must_use]
    pub fn size(&self, case: &Case) -> usize {
        let of = |choice| self.size_of(case, choice);
        Choice::ALL.into_iter().map(of).sum()
    }
}

/// What the line begins with by which a case's process tells how it failed: the runtime writes
/// lines of its own.
pub const FAILURE: &str = "FAILURE ";

/// The oracle that a failure names; of anything else its first words.
#[must_use]
pub fn oracle_of(output: &str) -> String {
    let told = output.lines().find_map(|line| line.strip_prefix(FAILURE));
    let line = told.unwrap_or("it ended without a word");
    let end = line.find(':').unwrap_or(line.len());
    line[..end].chars().take(60).collect()
}

/// Shrinks, asking `run` how a case goes.
pub struct Shrinker<R> {
    run: R,
    runs_left: u64,
    case: Case,
    oracle: String,
    last: Verdict,
}

impl<R: FnMut(&Case) -> Verdict> Shrinker<R> {
    /// Begins with `case`; `None` if it does not fail.
    pub fn new(case: Case, runs_max: u64, mut run: R) -> Option<Self> {
        let last = run(&case);
        let oracle = last.oracle.clone()?;
        Some(Self {
            run,
            runs_left: runs_max,
            case,
            oracle,
            last,
        })
    }

    /// How the last run that failed in the same way went.
    pub fn last(&self) -> &Verdict {
        &self.last
    }

    /// The smallest case that was found, what it violates, and how its run looks.
    pub fn shrink(mut self) -> (Case, Verdict) {
        self.nothing_else();
        loop {
            let before = self.case.clone();
            for choice in [Choice::Event, Choice::Fault, Choice::Operation] {
                self.choices(choice);
            }
            self.numbers();
            if self.case == before || self.runs_left == 0 {
                break;
            }
        }
        self.case.expects = Some(self.oracle);
        (self.case, self.last)
    }

    /// Lists what happened as what alone happens, of every kind: whatever is left out from now on,
    /// a run that goes on for longer does nothing else instead.
    fn nothing_else(&mut self) {
        let mut candidate = self.case.clone();
        for choice in Choice::ALL {
            let happened = self.last.happened(&self.case, choice);
            candidate.only.insert(choice, happened);
        }
        self.attempt(candidate);
    }

    /// Keeps `candidate` if it fails the same way and is no larger.
    fn attempt(&mut self, candidate: Case) -> bool {
        if self.runs_left == 0 {
            return false;
        }
        self.runs_left -= 1;
        let verdict = (self.run)(&candidate);
        let same = verdict.oracle.as_ref() == Some(&self.oracle);
        let kept = same && verdict.size(&candidate) <= self.last.size(&self.case);
        if kept {
            self.case = candidate;
            self.last = verdict;
        }
        kept
    }

    /// Numbers of the plan: many at once to the least, then each, or half of it.
    fn numbers(&mut self) {
        let mut at_once = KNOBS.len();
        while at_once > 1 && self.runs_left > 0 {
            for some in KNOBS.chunks(at_once) {
                self.set(some.iter().copied());
            }
            at_once = at_once.div_ceil(3);
        }
        for (name, least) in KNOBS {
            if self.set([(*name, *least)]) {
                continue;
            }
            while let Some(value) = self.case.settings.get(*name).copied() {
                if value / 2 <= *least || !self.set([(*name, value / 2)]) {
                    break;
                }
            }
        }
    }

    /// Makes numbers smaller that are larger than this.
    fn set(&mut self, numbers: impl IntoIterator<Item = (&'static str, u64)>) -> bool {
        let mut candidate = self.case.clone();
        for (name, value) in numbers {
            if let Some(current) = candidate.settings.get_mut(name) {
                *current = value.min(*current);
            }
        }
        candidate != self.case && self.attempt(candidate)
    }

    /// What of a kind is needed: nothing, or runs of choices left out, long ones first.
    fn choices(&mut self, choice: Choice) {
        let happened = self.happened(choice);
        let mut length = happened.len().div_ceil(2);
        if happened.is_empty() || self.keep(choice, Numbers::new()) {
            return;
        }
        if happened.len() <= ALONE_MAX && self.one_alone(choice, &happened) {
            return;
        }
        loop {
            let changed = self.sweep(choice, length);
            if length <= 1 && !changed || self.runs_left == 0 {
                return;
            }
            length = length.div_ceil(2);
        }
    }

    /// Leaves out all but one, if one is enough: what it needs others for may be the time that they
    /// take, and then it is not found by leaving out some.
    fn one_alone(&mut self, choice: Choice, happened: &[u64]) -> bool {
        happened.len() > 1
            && happened
                .iter()
                .any(|one| self.keep(choice, Numbers::from([*one])))
    }

    fn happened(&self, choice: Choice) -> Vec<u64> {
        let happened = self.last.happened(&self.case, choice);
        happened.into_iter().collect()
    }

    /// Leaves out each run of `length` choices that is not needed.
    fn sweep(&mut self, choice: Choice, length: usize) -> bool {
        let (mut at, mut changed) = (0, false);
        loop {
            let happened = self.happened(choice);
            if at >= happened.len() || self.runs_left == 0 {
                return changed;
            }
            let end = (at + length).min(happened.len());
            let rest = happened[..at].iter().chain(&happened[end..]);
            if self.keep(choice, rest.copied().collect()) {
                changed = true;
            } else {
                at = end;
            }
        }
    }

    /// Only these happen, of their kind.
    fn keep(&mut self, choice: Choice, numbers: Numbers) -> bool {
        let mut candidate = self.case.clone();
        candidate.only.insert(choice, numbers);
        self.attempt(candidate)
    }
}
