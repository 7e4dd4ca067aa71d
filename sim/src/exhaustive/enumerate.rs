//! All worlds of all workloads up to a length, on all cores, and what came of them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::point::{Disk, Point, points};
use super::run::{run, trace};
use super::workload::{ALPHABET, Letter, Shape, Word, name, parse, words};
use super::world::{Trace, Violation};
use crate::runner::message;

/// So many failures are shown; one mistake fails thousands of worlds.
const FAILURES_MAX: usize = 10;

/// Which of all workloads: every `of`th, from `index` on. The parts together are all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Counted from 0.
    pub index: usize,
    /// How many parts there are.
    pub of: usize,
}

impl Part {
    /// All workloads.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// Reads `I/N`, where the first part is `1/N`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (number, of) = text.split_once('/')?;
        let (number, of): (usize, usize) = (number.parse().ok()?, of.parse().ok()?);
        let index = number.checked_sub(1)?;
        (index < of).then_some(Self { index, of })
    }

    /// Whether the workload of that number is in it.
    #[must_use]
    pub fn has(self, number: usize) -> bool {
        number % self.of == self.index
    }
}

/// What came of an enumeration.
#[derive(Debug, Default)]
pub struct Report {
    /// Longest workload.
    pub operations: usize,
    /// Workloads.
    pub workloads: usize,
    /// Calls, and instants of rest, at which a process was stopped.
    pub stops: usize,
    /// Worlds.
    pub worlds: usize,
    /// Of them those in which every promise held.
    pub held: usize,
    /// How many there were by what became of the call and of the buffer store.
    pub outcomes: BTreeMap<(&'static str, &'static str), usize>,
    /// The first worlds in which a promise was broken.
    pub failures: Vec<(String, Violation)>,
    /// Real time.
    pub took: Duration,
    /// Threads.
    pub cores: usize,
}

impl Report {
    fn count(&mut self, point: Point) {
        let disk = match point.disk {
            Disk::Kept => "kept",
            Disk::Torn { .. } => "torn",
            Disk::Lost => "gone",
        };
        *self.outcomes.entry((point.fate.name(), disk)).or_default() += 1;
        self.worlds += 1;
    }

    fn add(&mut self, other: Self) {
        self.workloads += other.workloads;
        self.stops += other.stops;
        self.worlds += other.worlds;
        self.held += other.held;
        for (outcome, count) in other.outcomes {
            *self.outcomes.entry(outcome).or_default() += count;
        }
        let left = FAILURES_MAX.saturating_sub(self.failures.len());
        self.failures.extend(other.failures.into_iter().take(left));
    }
}

/// Runs every world of `shape`, of every workload of up to `operations` operations that is in
/// `part`, and tells of each length.
pub fn enumerate(
    shape: Shape,
    operations: usize,
    part: Part,
    mut progress: impl FnMut(&Report),
) -> Report {
    let began = Instant::now();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut sum = Report {
        cores,
        ..Report::default()
    };
    for length in 0..=operations {
        sum.operations = length;
        let words = words(length).into_iter().enumerate();
        let words = words.filter(|(number, _)| part.has(*number));
        let words: Vec<Word> = words.map(|(_, word)| word).collect();
        let (next, reports) = (AtomicUsize::new(0), Mutex::new(Report::default()));
        std::thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| {
                    while let Some(word) = words.get(next.fetch_add(1, Ordering::SeqCst)) {
                        let report = all_of(shape, word);
                        reports.lock().expect("adding does not panic").add(report);
                    }
                });
            }
        });
        sum.add(reports.into_inner().expect("adding does not panic"));
        sum.took = began.elapsed();
        progress(&sum);
    }
    sum
}

/// Every world that is `word`'s own.
fn all_of(shape: Shape, word: &Word) -> Report {
    let mut report = Report {
        workloads: 1,
        ..Report::default()
    };
    let undisturbed = match guarded(|| trace(shape, word)) {
        Ok(undisturbed) => undisturbed,
        Err(violation) => {
            report.worlds += 1;
            let world = format!("{}{}", shape.prefix(), name(word));
            report.failures.push((world, violation));
            return report;
        }
    };
    let first = undisturbed.starts.last().copied().unwrap_or_default();
    report.stops = undisturbed.calls.len() - first + 1;
    for point in points(&undisturbed.calls, first, undisturbed.rest) {
        report.count(point);
        match guarded(|| run(shape, word, &undisturbed, point, false)) {
            Ok(_) => report.held += 1,
            Err(violation) if report.failures.len() < FAILURES_MAX => {
                let world = format!("{}{}:{point}", shape.prefix(), name(word));
                report.failures.push((world, violation));
            }
            Err(_) => {}
        }
    }
    report
}

/// Runs one world again, with its events.
///
/// # Errors
/// What is wrong with the name, or the promise that does not hold.
pub fn replay(world: &str) -> Result<Vec<String>, Violation> {
    let unknown = || Violation {
        what: format!("{world} is not the name of a world"),
        events: Vec::new(),
    };
    let (shape, rest) = Shape::of(world);
    let (word, point) = rest.split_once(':').ok_or_else(unknown)?;
    let word: Word = parse(word).ok_or_else(unknown)?;
    let point = Point::parse(point).ok_or_else(unknown)?;
    let undisturbed: Trace = guarded(|| trace(shape, &word))?;
    if point.call > undisturbed.calls.len() {
        return Err(unknown());
    }
    guarded(|| run(shape, &word, &undisturbed, point, true))
}

/// A panic of the engine breaks a promise too.
fn guarded<T>(world: impl FnOnce() -> Result<T, Violation>) -> Result<T, Violation> {
    catch_unwind(AssertUnwindSafe(world)).unwrap_or_else(|panic| {
        Err(Violation {
            what: format!("panic: {}", message(&*panic)),
            events: Vec::new(),
        })
    })
}

/// The alphabet, for people.
#[must_use]
pub fn alphabet() -> String {
    let describe = |letter: Letter| {
        let (sign, what) = letter.describe();
        format!("  {sign}  {what}")
    };
    ALPHABET.map(describe).join("\n")
}
