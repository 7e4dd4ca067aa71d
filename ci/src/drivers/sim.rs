//! `cargo ci sim`: the simulation at its nightly length: the fixed batch that must meet everything,
//! fresh seeds, small worlds, and the known-bad variants of the engine; and that the engine without
//! variants and assertions, as users run it, does the same.

use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::rig::command::{cargo, run as run_to_end, terminate, wait_within};
use crate::rig::report::Report;
use crate::rig::workspace;

/// Compiling the simulation and its slowest part, on a slow machine.
const STEP_LIMIT: Duration = Duration::from_secs(3 * 3600);

/// Seeds whose digests two builds of the engine must have in common: the fixed batch, whose coverage
/// `cargo test` judges.
const COMPARED_SEEDS: &str = "200";

/// What runs.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Minutes of fresh seeds.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Longest workloads of the small worlds.
    #[arg(long, default_value_t = 4)]
    operations: u64,
    /// The first fresh seed; the time, if nothing is said.
    #[arg(long)]
    from: Option<u64>,
    /// Only whether the engine without variants and assertions does the same, seed by seed.
    #[arg(long)]
    plain: bool,
    /// Only the known-bad variants, each from a seed on that is known to catch it.
    #[arg(long)]
    variants: bool,
}

/// Runs the fixed batch, fresh seeds, the small worlds and the variants.
///
/// # Errors
/// If a seed or a world breaks a promise, a fault never fires, or a variant survives.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::default();
    if options.variants {
        report.check("sim", "variants", variants_are_caught);
    }
    if options.plain || !options.variants {
        report.check("sim", "without variants", same_without_variants);
    }
    if options.plain || options.variants {
        return report.finish("cargo ci sim");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let from = options.from.unwrap_or(now).to_string();
    let (minutes, operations) = (options.minutes.to_string(), options.operations.to_string());
    let steps: [(&str, Vec<&str>); 4] = [
        ("the fixed batch", vec!["coverage"]),
        (
            "fresh seeds",
            vec!["swarm", "--minutes", &minutes, "--from", &from],
        ),
        ("small worlds", vec!["exhaustive", "--ops", &operations]),
        ("variants", vec!["mutants"]),
    ];
    for (name, arguments) in steps {
        let limit = STEP_LIMIT + Duration::from_secs(60 * options.minutes);
        report.check("sim", name, || simulate(&arguments, limit));
    }
    report.finish("cargo ci sim")
}

/// The program that `cargo test` builds.
fn tested_program() -> Command {
    let mut tested = cargo();
    tested
        .args(["test", "--quiet", "--features", "sim"])
        .args(["--test", "simulation", "--"])
        .current_dir(workspace::root());
    tested
}

/// Every variant is caught.
fn variants_are_caught() -> Result<String> {
    let finished = run_to_end(tested_program().arg("variants"), STEP_LIMIT)?;
    let caught = finished
        .stdout
        .lines()
        .filter(|it| it.contains(" caught after "));
    Ok(format!("{} variants are caught", caught.count()))
}

/// The digests of some seeds by the program that `cargo test` builds, and by a release build, which
/// has no variants.
fn same_without_variants() -> Result<String> {
    let digests = ["digests", "--seeds", COMPARED_SEEDS];
    let mut tested = tested_program();
    let mut plain = cargo();
    plain
        .args(["run", "--quiet", "--release", "--package", "sim"])
        .args(["--features", "sim", "--"]);
    let lines = |command: &mut Command| -> Result<Vec<String>> {
        let finished = run_to_end(
            command.args(digests).current_dir(workspace::root()),
            STEP_LIMIT,
        )?;
        let is_digest = |line: &&str| line.starts_with(|first: char| first.is_ascii_digit());
        let lines = finished.stdout.lines().filter(is_digest);
        Ok(lines.map(str::to_owned).collect())
    };
    let (tested, plain) = (lines(&mut tested)?, lines(&mut plain)?);
    ensure!(
        tested.len().to_string() == COMPARED_SEEDS,
        "{} digests",
        tested.len()
    );
    for (one, other) in tested.iter().zip(&plain) {
        ensure!(one == other, "with variants {one}, without {other}");
    }
    ensure!(tested.len() == plain.len(), "not as many seeds");
    Ok(format!("{COMPARED_SEEDS} seeds have equal digests"))
}

/// Runs the simulation's own program, which shows its progress.
fn simulate(arguments: &[&str], limit: Duration) -> Result<String> {
    let mut child = cargo()
        .arg("sim")
        .args(arguments)
        .current_dir(workspace::root())
        .stdin(Stdio::null())
        .spawn()
        .context("starting the simulation")?;
    match wait_within(&mut child, limit)? {
        Some(status) => {
            ensure!(status.success(), "{}: {status}", arguments.join(" "));
            Ok(arguments.join(" "))
        }
        None => {
            terminate(&child)?;
            anyhow::bail!("{} took more than {limit:?}", arguments.join(" "))
        }
    }
}
