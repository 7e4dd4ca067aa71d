//! Makes a failing run small: switches off what it does not need, as long as it fails the same way.
//!
//! Delta debugging over three kinds of choices (what happens to servers, requests of clients,
//! faults of the store) and over the numbers of the plan. A choice that is switched off is still
//! drawn, so that what comes before it stays as it was; what comes after may be quite another
//! run, which counts if it fails in the same oracle.

use crate::case::{Case, KNOBS, Numbers};
use crate::journal::Choice;

/// Runs of the simulation that one shrinking may take, when nothing else is asked for.
pub const RUNS_MAX: u64 = 400;

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
        loop {
            let before = self.case.clone();
            self.numbers();
            for choice in [Choice::Event, Choice::Operation, Choice::Fault] {
                self.choices(choice);
            }
            if self.case == before || self.runs_left == 0 {
                break;
            }
        }
        self.case.expects = Some(self.oracle);
        (self.case, self.last)
    }

    /// Keeps `candidate` if it fails the same way.
    fn attempt(&mut self, candidate: Case) -> bool {
        if self.runs_left == 0 {
            return false;
        }
        self.runs_left -= 1;
        let verdict = (self.run)(&candidate);
        let same = verdict.oracle.as_ref() == Some(&self.oracle);
        if same {
            self.case = candidate;
            self.last = verdict;
        }
        same
    }

    /// Numbers of the plan: the least, or half.
    fn numbers(&mut self) {
        for (name, least) in KNOBS {
            while let Some(value) = self.case.settings.get(*name).copied() {
                if value <= *least {
                    break;
                }
                let mut smaller = |to: u64| {
                    let mut candidate = self.case.clone();
                    candidate.settings.insert((*name).to_owned(), to);
                    self.attempt(candidate)
                };
                if smaller(*least) || value / 2 <= *least || !smaller(value / 2) {
                    break;
                }
            }
        }
    }

    /// Choices: large runs of them first, then smaller ones, to single ones.
    fn choices(&mut self, choice: Choice) {
        let drawn = self.last.choices.get(choice as usize).copied().unwrap_or(0);
        let mut length = drawn.next_power_of_two() / 2;
        if drawn > 0 && self.skip(choice, (0..drawn).collect()) {
            return;
        }
        while length > 0 {
            let mut first = 0;
            while first < self.drawn(choice) {
                let numbers = (first..first + length).collect();
                self.skip(choice, numbers);
                first += length;
            }
            length /= 2;
        }
    }

    fn drawn(&self, choice: Choice) -> u64 {
        self.last.choices.get(choice as usize).copied().unwrap_or(0)
    }

    fn skip(&mut self, choice: Choice, numbers: Numbers) -> bool {
        let mut candidate = self.case.clone();
        let skips = candidate.skips.entry(choice).or_default();
        let before = skips.len();
        skips.extend(numbers);
        skips.len() > before && self.attempt(candidate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if event 6 and operations 40 and 41 happen, with two clients at least.
    fn model(case: &Case) -> Verdict {
        let happens = |choice: Choice, number: u64| {
            !case
                .skips
                .get(&choice)
                .is_some_and(|it| it.contains(&number))
        };
        let fails = happens(Choice::Event, 6)
            && happens(Choice::Operation, 40)
            && happens(Choice::Operation, 41)
            && case.settings["clients"] >= 2;
        Verdict {
            oracle: fails.then(|| "oracle 5 (reads)".to_owned()),
            choices: vec![10, 100, 50],
            events: 1000,
        }
    }

    #[test]
    fn only_what_is_needed_remains() {
        let mut case = Case::of(1);
        case.settings.insert("clients".to_owned(), 5);
        let (case, verdict) = Shrinker::new(case, 1000, model).expect("it fails").shrink();
        assert_eq!(verdict.oracle.as_deref(), Some("oracle 5 (reads)"));
        assert_eq!(case.expects.as_deref(), Some("oracle 5 (reads)"));
        assert_eq!(case.settings["clients"], 2);
        assert_eq!(case.settings["store.late"], 0);
        let kept = |choice: Choice, drawn: u64| -> Vec<u64> {
            (0..drawn)
                .filter(|it| !case.skips[&choice].contains(it))
                .collect()
        };
        assert_eq!(kept(Choice::Event, 10), [6]);
        assert_eq!(kept(Choice::Operation, 100), [40, 41]);
        assert!(kept(Choice::Fault, 50).is_empty());
    }

    #[test]
    fn what_does_not_fail_is_not_shrunk_and_the_budget_is_kept() {
        let healthy = |_: &Case| Verdict::default();
        assert!(Shrinker::new(Case::of(1), 10, healthy).is_none());
        let mut case = Case::of(1);
        case.settings.insert("clients".to_owned(), 5);
        let mut runs = 0;
        let counted = |case: &Case| {
            runs += 1;
            model(case)
        };
        Shrinker::new(case, 10, counted).expect("it fails").shrink();
        assert_eq!(runs, 11);
    }

    #[test]
    fn a_failure_names_its_oracle() {
        let said = |line: &str| oracle_of(&format!("context: node=3\n{line}\n  more"));
        assert_eq!(said("FAILURE oracle 5 (reads): alpha"), "oracle 5 (reads)");
        assert_eq!(
            said("FAILURE batches come in order"),
            "batches come in order"
        );
        assert_eq!(said("killed"), "it ended without a word");
    }
}
