//! The command line of the simulation, and what `cargo test --features sim` runs.
//!
//! ```text
//! run --seed N [--quiet | --block B]   replay one seed, with its timeline
//! swarm --minutes M [--from N]         fresh seeds on all cores, each once
//! batch --seeds K [--from N]           K seeds, each twice, digests compared
//! digests --seeds K [--from N]         the digest of each of K seeds, to compare builds
//! coverage                             the fixed batch: everything must have been met
//! mutants [--seeds K] [--only NAME]    known-bad variants of the engine: each must be caught
//! variants                             the same, beginning with the seeds that are known to do it
//! shrink --seed N [--variant NAME] [--runs R]   a failing seed as a small case in sim/cases
//! case [--quiet] PATH                  replay a case, with its timeline
//! cases [--variants]                   every case; also that each catches its variant
//! exhaustive [--large] [--ops K] [--part I/N]   small worlds, all of them, or one part of N
//! exhaustive --only WORLD              one of them, with its events
//! planted                              a planted failure is made small
//! fidelity                             the simulated stores against the suites of real ones
//! ```
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the command line"
)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::cases;
use crate::coverage;
use crate::exhaustive::command::TEST_OPERATIONS;
use crate::exhaustive::{self, enumerate::Part, workload::Shape};
use crate::fidelity;
use crate::journal::Timeline;
use crate::mutants::{self, Search};
use crate::plan::DISK_VARIABLE;
use crate::runner::{
    MUTANT_VARIABLE, Outcome, Summary, run_apart, run_here, run_many, run_twice, run_twice_on_files,
};
use crate::shrink;

/// Seeds that once found a bug, or that reach something rare.
pub const REGRESSION_SEEDS: &[u64] = &[
    // Two damaged reads of a manifest in a row, and a tenure ended.
    1_000_010,
    // A version that expires while a server opens it to roll back to.
    3_000_961,
    // Errors of the model: who of those that asked for the same was committed where.
    200_549,
    300_961,
    1_000_120,
    // An unpublished rollback gave out an LSN above what a power cut left.
    2_000_055,
    // A copy of a buffer store brought back what a power cut had taken.
    3_001_135,
    // Segments that were cut shorter than those merged into them: merging never came to an end.
    320,
    50_001_126,
    // A server slept in the middle of its check who the active writer is, and took the check's
    // time-out for an answer of now.
    1_796_036_051,
];

/// How many seeds that nobody ran before `cargo test` runs.
const FRESH_SEEDS: u64 = 40;

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    run(&arguments).unwrap_or_else(|usage| {
        eprintln!("{usage}");
        ExitCode::from(2)
    })
}

/// What a process of the test's own program is told by its first argument, and by whoever replays
/// what the test found with the program that is there already.
const COMMANDS_OF_THE_TEST: [&str; 5] = ["child", "case", "run", "digests", "variants"];

/// The test: small worlds, fidelity, cases, regression seeds, the fixed batch, fresh seeds, a planted
/// failure. `cargo ci sim --plain` runs the fixed batch twice more, `cargo ci sim --variants` the
/// variants.
#[must_use]
pub fn test_main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let first = arguments.first().map_or("", String::as_str);
    if COMMANDS_OF_THE_TEST.contains(&first) {
        return main();
    }
    if arguments.iter().any(|argument| argument == "--list") {
        println!("simulation: test");
        return ExitCode::SUCCESS;
    }
    let outcomes = [
        exhaustive::command::main(Shape::Small, TEST_OPERATIONS, Part::WHOLE),
        exhaustive::command::main(Shape::Large, TEST_OPERATIONS, Part::WHOLE),
        fidelity::main(),
        cases::check_all(true),
        regression_seeds(),
        fixed_batch(),
        fresh_seeds(),
        planted(),
    ];
    let failed = outcomes.iter().find(|it| **it != ExitCode::SUCCESS);
    failed.copied().unwrap_or(ExitCode::SUCCESS)
}

fn regression_seeds() -> ExitCode {
    println!("regression seeds, each twice");
    finish(&many(REGRESSION_SEEDS.iter().copied(), run_twice))
}

fn fixed_batch() -> ExitCode {
    println!("the fixed batch: {} seeds", coverage::SEEDS);
    covered(&many(0..coverage::SEEDS, run_apart))
}

/// Seeds that nobody ran before, from the time on.
fn fresh_seeds() -> ExitCode {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let from = now.map_or(0, |it| it.as_secs());
    println!("fresh seeds: {FRESH_SEEDS} from {from} on, each twice");
    println!(
        "  those with an odd number on disks of files: replay them with {DISK_VARIABLE}=files"
    );
    let run = |seed: u64| match seed % 2 {
        1 => run_twice_on_files(seed),
        _ => run_twice(seed),
    };
    finish(&many(from..from + FRESH_SEEDS, run))
}

fn variants() -> ExitCode {
    println!("known-bad variants of the engine");
    mutants::judge(mutants::SEEDS, None, Search::KnownFirst)
}

fn planted() -> ExitCode {
    println!("a planted failure is made small");
    cases::shrinks()
}

fn run(arguments: &[String]) -> Result<ExitCode, String> {
    let command = arguments.first().map(String::as_str);
    let number = |name: &str| number_of(arguments, name);
    match command {
        Some("child") => {
            let seed = arguments.get(1).and_then(|text| text.parse().ok());
            Ok(child(seed.ok_or(USAGE)?, Timeline::Off))
        }
        Some("run") => {
            let timeline = match number("--block")? {
                Some(block) => Timeline::Block(block),
                None if arguments.iter().any(|it| it == "--quiet") => Timeline::Off,
                None => Timeline::All,
            };
            if std::env::var_os("RUST_LOG").is_some() {
                madsim::runtime::init_logger();
            }
            Ok(child(number("--seed")?.ok_or(USAGE)?, timeline))
        }
        Some("swarm") => {
            let minutes = number("--minutes")?.unwrap_or(1);
            let end = Instant::now() + Duration::from_secs(60 * minutes);
            let from = number("--from")?.unwrap_or(1000);
            let seeds = (from..).take_while(move |_| Instant::now() < end);
            Ok(finish(&many(seeds, run_apart)))
        }
        Some("mutants") => {
            let seeds = number("--seeds")?.unwrap_or(mutants::SEEDS);
            let chosen = text_of(arguments, "--only");
            Ok(mutants::judge(seeds, chosen, Search::FromZero))
        }
        Some("variants") => Ok(variants()),
        Some("shrink") => {
            let runs = number("--runs")?.unwrap_or(shrink::RUNS_MAX);
            let seed = number("--seed")?.ok_or(USAGE)?;
            Ok(cases::shrink(seed, text_of(arguments, "--variant"), runs))
        }
        Some("case") => {
            let quiet = arguments.iter().any(|it| it == "--quiet");
            let path = arguments.last().ok_or(USAGE)?;
            prepare();
            Ok(cases::run_here(
                path,
                if quiet { Timeline::Off } else { Timeline::All },
            ))
        }
        Some("cases") => Ok(cases::check_all(
            arguments.iter().any(|it| it == "--variants"),
        )),
        Some("exhaustive") => {
            select_variant();
            if let Some(world) = text_of(arguments, "--only") {
                return Ok(exhaustive::command::only(world));
            }
            let operations = number("--ops")?.and_then(|it| usize::try_from(it).ok());
            let operations = operations.unwrap_or(exhaustive::command::OPERATIONS);
            let part = text_of(arguments, "--part").map_or(Some(Part::WHOLE), Part::parse);
            let part = part.ok_or("--part needs I/N, from 1/N to N/N")?;
            let is_large = arguments.iter().any(|it| it == "--large");
            let shape = if is_large { Shape::Large } else { Shape::Small };
            Ok(exhaustive::command::main(shape, operations, part))
        }
        Some("fidelity") => Ok(fidelity::main()),
        Some("planted") => Ok(planted()),
        Some("coverage") => Ok(covered(&many(0..coverage::SEEDS, run_apart))),
        Some("batch") => {
            let from = number("--from")?.unwrap_or(0);
            let seeds = from..from + number("--seeds")?.unwrap_or(FRESH_SEEDS);
            Ok(finish(&many(seeds, run_twice)))
        }
        Some("digests") => {
            let from = number("--from")?.unwrap_or(0);
            let seeds = from..from + number("--seeds")?.unwrap_or(FRESH_SEEDS);
            Ok(digests(seeds))
        }
        _ => Err(USAGE.to_owned()),
    }
}

const USAGE: &str = "run --seed N [--quiet | --block B] | swarm --minutes M [--from N] | \
                     batch --seeds K [--from N] | digests --seeds K [--from N] | coverage | mutants [--seeds K] [--only NAME] | variants | \
                     shrink --seed N [--variant NAME] [--runs R] | case [--quiet] PATH | \
                     cases [--variants] | exhaustive [--large] [--ops K] [--part I/N | --only WORLD] | planted | fidelity";

fn text_of<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|it| it == name)?;
    arguments.get(at + 1).map(String::as_str)
}

/// How the fixed batch went, which must also have met everything.
fn covered(summary: &Summary) -> ExitCode {
    let gaps = coverage::gaps(summary);
    let ended = finish(summary);
    for gap in &gaps {
        println!("coverage: {gap}");
    }
    if gaps.is_empty() {
        ended
    } else {
        ExitCode::FAILURE
    }
}

/// Prints what two builds of the same engine must have in common: for each seed its digest and how
/// many events there were.
fn digests(seeds: std::ops::Range<u64>) -> ExitCode {
    let (outcomes, mut rest) = (Mutex::new(BTreeMap::new()), seeds);
    let run = |seed| {
        let outcome = run_apart(seed);
        let what = format!("{seed} {:x} {}", outcome.digest, outcome.events);
        let known = &mut outcomes.lock().expect("inserting does not panic");
        known.insert(seed, what);
        outcome
    };
    let summary = run_many(move || rest.next(), run, |_| ());
    for line in outcomes.into_inner().expect("nothing panicked").values() {
        println!("{line}");
    }
    for (seed, failure) in &summary.failed {
        eprintln!("---- seed {seed}\n{failure}");
    }
    if summary.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn number_of(arguments: &[String], name: &str) -> Result<Option<u64>, String> {
    let Some(at) = arguments.iter().position(|it| it == name) else {
        return Ok(None);
    };
    let value = arguments.get(at + 1).and_then(|text| text.parse().ok());
    value
        .map(Some)
        .ok_or_else(|| format!("{name} needs a number"))
}

/// Runs the variant of the engine that is asked for, if one is.
fn select_variant() {
    if let Ok(name) = std::env::var(MUTANT_VARIABLE) {
        mvps_core::mutant::select(&name);
    }
}

/// What a process that runs the simulation does first.
fn prepare() {
    select_variant();
    if std::env::var_os("SIM_BACKTRACE").is_none() {
        // What went wrong is reported with the events before it.
        std::panic::set_hook(Box::new(|_| {}));
    }
}

fn child(seed: u64, timeline: Timeline) -> ExitCode {
    prepare();
    let outcome = run_here(seed, timeline);
    println!("{}", outcome.line());
    match outcome.failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            eprintln!("seed {seed}: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn many(seeds: impl Iterator<Item = u64> + Send, run: impl Fn(u64) -> Outcome + Sync) -> Summary {
    let mut seeds = seeds;
    let told = AtomicUsize::new(0);
    let progress = |summary: &Summary| {
        let done = summary.passed + summary.failed.len() as u64;
        if summary.failed.len() > told.swap(summary.failed.len(), Ordering::Relaxed)
            && let Some((seed, failure)) = summary.failed.last()
        {
            let mut lines = failure.lines();
            let what = lines
                .find(|line| line.starts_with("seed "))
                .unwrap_or("it failed");
            println!(
                "  seed {seed}: {}",
                what.trim_start_matches(&format!("seed {seed}: "))
            );
        }
        if done.is_multiple_of(10) {
            println!(
                "  {done} seeds, {} failed, {:.1} simulated hours, {:.0} s",
                summary.failed.len(),
                summary.simulated.as_secs_f64() / 3600.0,
                summary.took.as_secs_f64()
            );
        }
    };
    run_many(move || seeds.next(), run, progress)
}

fn finish(summary: &Summary) -> ExitCode {
    coverage::print(summary);
    for (seed, failure) in &summary.failed {
        println!("---- seed {seed}\n{failure}");
        println!("  replay: cargo sim run --seed {seed}");
    }
    let seeds = summary.passed + summary.failed.len() as u64;
    let core_hours = summary.took.as_secs_f64() / 3600.0 * summary.cores as f64;
    println!(
        "{seeds} seeds, {:.1} simulated hours, {} events, {:.0} seeds per hour and core, {:.1} s",
        summary.simulated.as_secs_f64() / 3600.0,
        summary.events,
        seeds as f64 / core_hours.max(f64::EPSILON),
        summary.took.as_secs_f64()
    );
    println!("{} passed, {} failed", summary.passed, summary.failed.len());
    if summary.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
