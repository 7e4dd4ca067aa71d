//! `cargo ci sim`: the simulation at its nightly length: the fixed batch that must meet everything,
//! fresh seeds, small worlds, and the known-bad variants of the engine.

use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::rig::command::{terminate, wait_within};
use crate::rig::report::Report;
use crate::rig::workspace;

/// Compiling the simulation twice (once with variants) and its slowest part, on a slow machine.
const STEP_LIMIT: Duration = Duration::from_secs(3 * 3600);

/// How long the simulation runs.
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
}

/// Runs the fixed batch, fresh seeds, the small worlds and the variants.
///
/// # Errors
/// If a seed or a world breaks a promise, a fault never fires, or a variant survives.
pub fn run(options: &Options) -> Result<()> {
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
    let mut report = Report::default();
    for (name, arguments) in steps {
        let limit = STEP_LIMIT + Duration::from_secs(60 * options.minutes);
        report.check("sim", name, || simulate(&arguments, limit));
    }
    report.finish("cargo ci sim")
}

/// Runs the simulation's own program, which shows its progress.
fn simulate(arguments: &[&str], limit: Duration) -> Result<String> {
    let mut child = Command::new("cargo")
        .args([
            "run",
            "--quiet",
            "--release",
            "-p",
            "sim",
            "--features",
            "sim",
            "--",
        ])
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
