//! The cases that are checked in, and the command that makes them.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the command line"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crate::case::Case;
use crate::journal::{Choice, Journal, PLANTED_VARIABLE, Timeline};
use crate::runner::{MUTANT_VARIABLE, Outcome, own_program, run_plan_here};
use crate::shrink::{FAILURE, Shrinker, Verdict, oracle_of};

/// Where cases are.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")
}

fn load(path: &Path) -> Result<Case, String> {
    let shown = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| shown(&error))?;
    Case::parse(&text).map_err(|error| shown(&error))
}

/// Runs the case at `path` in this process.
#[must_use]
pub fn run_here(path: &str, timeline: Timeline) -> ExitCode {
    let case = match load(Path::new(path)) {
        Ok(case) => case,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let journal = Journal::new(timeline).choosing(case.only.clone(), case.skips.clone());
    let outcome = run_plan_here(case.plan(), &journal);
    let choices: Vec<String> = journal.choices().iter().map(u64::to_string).collect();
    println!("CHOICES {}", choices.join(" "));
    println!("{}", outcome.line());
    match outcome.failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            eprintln!("{FAILURE}{failure}");
            ExitCode::FAILURE
        }
    }
}

/// Why a run is expected to fail: the variable of its process that says so, and its value.
type Cause<'a> = Option<(&'static str, &'a str)>;

fn as_variant(name: &str) -> Cause<'_> {
    Some((MUTANT_VARIABLE, name))
}

/// Runs the case at `path` in a process of its own.
fn run_apart(program: &Path, path: &Path, cause: Cause<'_>) -> Verdict {
    let output = Command::new(program)
        .args(["case", "--quiet"])
        .arg(path)
        .envs(cause)
        .stdin(Stdio::null())
        .output();
    let Ok(output) = output else {
        return Verdict {
            oracle: Some("the case's process does not start".to_owned()),
            ..Verdict::default()
        };
    };
    let stdout = String::from_utf8_lossy(&output.stdout);
    let choices = stdout
        .lines()
        .find_map(|line| line.strip_prefix("CHOICES "));
    let numbers = choices.unwrap_or_default().split_whitespace();
    let outcome = stdout.lines().find_map(Outcome::parse);
    let stderr = String::from_utf8_lossy(&output.stderr);
    Verdict {
        oracle: (!output.status.success()).then(|| oracle_of(&stderr)),
        choices: numbers.filter_map(|it| it.parse().ok()).collect(),
        events: outcome.map_or(0, |it| it.events),
    }
}

/// Runs every case that is checked in, on the engine as it is: each must pass. With `variants` also
/// on the variant that it catches, where it must fail in the oracle that it names.
#[must_use]
pub fn check_all(variants: bool) -> ExitCode {
    match judge_all(variants) {
        Ok(count) => {
            println!("{count} cases hold");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn judge_all(variants: bool) -> Result<usize, String> {
    let program = own_program()?;
    let entries = std::fs::read_dir(folder()).map_err(|error| error.to_string())?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|it| Some(it.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|it| it == "case"));
    paths.sort();
    for path in &paths {
        let case = load(path)?;
        let shown = path.display();
        if let Some(oracle) = run_apart(&program, path, None).oracle {
            return Err(format!("{shown} fails: {oracle}"));
        }
        if let (true, Some(variant)) = (variants, &case.variant) {
            let found = run_apart(&program, path, as_variant(variant)).oracle;
            if found != case.expects {
                let expected = case.expects.unwrap_or_default();
                return Err(format!(
                    "{shown}: {variant} should violate {expected}, not {found:?}"
                ));
            }
        }
    }
    Ok(paths.len())
}

/// Shrinks the run of `seed`, on a variant of the engine if one is named, and writes a case.
#[must_use]
pub fn shrink(seed: u64, variant: Option<&str>, runs_max: u64) -> ExitCode {
    match shrink_to_file(seed, variant, runs_max) {
        Ok(path) => {
            println!("written: {}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn shrink_to_file(seed: u64, variant: Option<&str>, runs_max: u64) -> Result<PathBuf, String> {
    let program = own_program()?;
    let mut shrunk = shrink_seed(&program, seed, variant.and_then(as_variant), runs_max)?;
    shrunk.case.variant = variant.map(str::to_owned);
    let name = variant.map_or(String::new(), |name| format!("-{}", name.replace(' ', "-")));
    let path = folder().join(format!("seed-{seed}{name}.case"));
    std::fs::create_dir_all(folder()).map_err(|error| error.to_string())?;
    std::fs::write(&path, shrunk.case.to_string()).map_err(|error| error.to_string())?;
    println!("{}", shrunk.case);
    Ok(path)
}

/// A case that was made small.
struct Shrunk {
    case: Case,
    /// Choices that it carries out.
    size: usize,
    /// Runs that it took.
    runs: u64,
}

fn shrink_seed(
    program: &Path,
    seed: u64,
    cause: Cause<'_>,
    runs_max: u64,
) -> Result<Shrunk, String> {
    let candidate = std::env::temp_dir().join(format!("sim-{}.case", std::process::id()));
    let mut runs = 0;
    let run = |case: &Case| {
        if let Err(error) = std::fs::write(&candidate, case.to_string()) {
            eprintln!("{}: {error}", candidate.display());
            return Verdict::default();
        }
        runs += 1;
        let verdict = run_apart(program, &candidate, cause);
        if runs % 50 == 0 {
            println!("  {runs} runs");
        }
        verdict
    };
    let shrinker = Shrinker::new(Case::of(seed), runs_max, run)
        .ok_or_else(|| format!("seed {seed} does not fail: nothing to shrink"))?;
    let before = shrinker.last().clone();
    let (mut case, after) = shrinker.shrink();
    // It was written by this process, and nobody else wants it.
    let _ = std::fs::remove_file(&candidate);
    let size = after.size(&case);
    let whole = Case::of(seed);
    let of = |choice: Choice| {
        let (left, all) = (after.size_of(&case, choice), before.size_of(&whole, choice));
        format!("{left} of {all} {}, ", choice.name())
    };
    let what: String = Choice::ALL.into_iter().map(of).collect();
    let (lines, lines_before) = (after.events, before.events);
    case.remarks = vec![format!(
        "shrunk from seed {seed}: {what}{lines} of {lines_before} lines, after {runs} runs"
    )];
    Ok(Shrunk { case, size, runs })
}

/// What the planted oracle forbids: two choices of clients and one of the driver.
const PLANTED: &str = " flush |FAULT process: kill| flush ";

/// A seed that does it, by choices: of some others it is the end of the run, or somebody who works on
/// history, that kills.
const PLANTED_SEED: u64 = 79;

/// Choices that may be left of it.
const PLANTED_SIZE_MAX: usize = 6;

/// Runs that making it small may take.
const PLANTED_RUNS_MAX: u64 = 400;

/// Shrinking works: a planted failure becomes small.
#[must_use]
pub fn shrinks() -> ExitCode {
    let cause = Some((PLANTED_VARIABLE, PLANTED));
    let shrunk = own_program()
        .and_then(|program| shrink_seed(&program, PLANTED_SEED, cause, PLANTED_RUNS_MAX));
    match shrunk {
        Ok(Shrunk { case, size, runs }) if size <= PLANTED_SIZE_MAX => {
            let seed = case.seed;
            println!("a planted failure of seed {seed} shrinks to {size} choices in {runs} runs");
            ExitCode::SUCCESS
        }
        Ok(Shrunk { case, size, .. }) => {
            eprintln!("shrunk to {size} choices, not to {PLANTED_SIZE_MAX}:\n{case}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
