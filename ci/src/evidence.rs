//! `cargo ci evidence`: everything that a capability must show, in one run, with its figures.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::command::run_any;

/// What is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Capability {
    /// The engine serves a disk.
    Engine,
}

/// How long one word may take.
const WORD_LIMIT: Duration = Duration::from_secs(3600);

/// The words that show the engine, on the release build.
const ENGINE: &[&[&str]] = &[
    &["interop", "--profile", "release"],
    &["filesystem", "--profile", "release"],
    &["kill", "--rounds", "50", "--profile", "release"],
    &[
        "kill",
        "--rounds",
        "50",
        "--profile",
        "release",
        "--store",
        "s3",
    ],
    &["outage", "--profile", "release"],
    &["idle", "--profile", "release"],
    &["bench"],
];

/// Runs every word and prints what each printed, then which passed.
///
/// # Errors
/// If a word fails; the others run all the same.
pub fn run(capability: Capability) -> Result<()> {
    let words = match capability {
        Capability::Engine => ENGINE,
    };
    let mut summary = Vec::new();
    for word in words {
        let name = format!("cargo ci {}", word.join(" "));
        println!("\n### {name}");
        let started = Instant::now();
        let mut command = Command::new(std::env::current_exe()?);
        let finished = run_any(command.args(*word), WORD_LIMIT);
        let passed = match finished {
            Ok(finished) => {
                print!("{}", finished.stdout);
                if !finished.status.success() {
                    print!("{}", finished.stderr);
                }
                finished.status.success()
            }
            Err(error) => {
                println!("{error:#}");
                false
            }
        };
        summary.push((name, passed, started.elapsed()));
    }
    println!("\n### summary");
    for (name, passed, elapsed) in &summary {
        let verdict = if *passed { "passed" } else { "FAILED" };
        println!("  {verdict} {:>6.0} s  {name}", elapsed.as_secs_f64());
    }
    if summary.iter().any(|(_, passed, _)| !passed) {
        bail!("not everything was shown");
    }
    Ok(())
}
