//! Mutation testing of the simulation: known-bad variants of the engine, each of which must be
//! caught. The runner builds itself once more with `--cfg mvps_mutant="selectable"`, in a target
//! directory of its own, and that program runs one variant at a time.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the command line"
)]

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use mvps_core::mutant::ALL;

use crate::runner::run_apart_as;

/// Names the variant that a seed's process runs.
pub const MUTANT_VARIABLE: &str = "SIM_MUTANT";

/// Seeds that a variant may survive, when nothing else is asked for.
pub const SEEDS: u64 = 60;

/// This process runs the variant `name` from now on.
#[cfg(mvps_mutant = "selectable")]
pub fn select(name: &str) {
    mvps_core::mutant::select(name);
}

/// This process runs the engine as it is: it was not built for variants.
#[cfg(not(mvps_mutant = "selectable"))]
pub fn select(name: &str) {
    panic!("{name}: this program was not built with variants; see `mutants`");
}

/// Runs every variant, or the one that was asked for, until it is caught.
#[must_use]
pub fn main(seeds: u64, chosen: Option<&str>) -> ExitCode {
    let program = match build() {
        Ok(program) => program,
        Err(reason) => {
            eprintln!("the variants cannot be built: {reason}");
            return ExitCode::FAILURE;
        }
    };
    let mut survived = 0;
    let mut caught_after = Vec::new();
    for name in ALL
        .iter()
        .filter(|name| chosen.is_none_or(|only| only == **name))
    {
        let caught = (0..seeds).find_map(|seed| {
            let outcome = run_apart_as(&program, seed, Some(name));
            outcome.failure.map(|failure| (seed + 1, failure))
        });
        if let Some((after, failure)) = caught {
            let oracle = failure.lines().find_map(|line| {
                line.split_once(": ")
                    .filter(|(seed, _)| seed.starts_with("seed"))
            });
            let what = oracle.map_or("", |(_, what)| what);
            let what: String = what.chars().take(110).collect();
            println!("{name:<40} caught after {after:>4} seeds: {what}");
            caught_after.push(after);
        } else {
            println!("{name:<40} SURVIVED {seeds} seeds");
            survived += 1;
        }
    }
    caught_after.sort_unstable();
    let median = caught_after
        .get(caught_after.len() / 2)
        .copied()
        .unwrap_or(0);
    println!("median: {median} seeds to detection");
    println!("{} passed, {survived} failed", caught_after.len());
    if survived == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Builds the simulation with selectable variants.
pub(crate) fn build() -> Result<PathBuf, String> {
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let base = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = base
        .unwrap_or_else(|| workspace.join("target"))
        .join("mutants");
    let release = !cfg!(debug_assertions);
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(&workspace)
        .args([
            "build",
            "--quiet",
            "-p",
            "sim",
            "--features",
            "sim",
            "--bin",
            "sim",
        ])
        .args(release.then_some("--release"))
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", "--cfg madsim --cfg mvps_mutant=\"selectable\"");
    let status = cargo.status().map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(status.to_string());
    }
    Ok(target
        .join(if release { "release" } else { "debug" })
        .join("sim"))
}
