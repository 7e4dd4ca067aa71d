//! `cargo ci gc-crashes`: two collectors in a tight loop that forget whatever they may, killed at
//! random, beside a server under load that is itself killed, moved and taken over.
//!
//! Reading order: [`loops`] (the collectors), [`ends`] (how a round ends), [`rounds`] (the rest).
//! The model is that of `cargo ci kill`: every unit carries the stamp of the operation that wrote
//! it, and every state that is found is explained by what the clients know. Snapshots are kept for
//! a few rounds, cloned, rolled back to and compared unit by unit.

mod ends;
mod loops;
mod rounds;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::rig::command;
use crate::rig::daemon::Setup;
use crate::rig::numbers::seed_of_now;
use crate::rig::object_server::ObjectServer;
use crate::rig::report::Report;
use crate::rig::workspace::{self, Binary};

use loops::Loops;
use rounds::LoadedImage;

/// How long the last collection, and the check of everything, may take.
const LIMIT: Duration = Duration::from_secs(300);

/// For how long, and from which seed.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Minutes of it.
    #[arg(long, default_value_t = 10.0)]
    pub minutes: f64,
    /// Chooses loads and instants; by default something new.
    #[arg(long)]
    pub seed: Option<u64>,
}

/// Runs a server under load beside the collectors, then checks everything.
///
/// # Errors
/// If a state cannot be explained, a collector fails, or the check finds anything; the directory of
/// the servers is then kept.
pub fn run(binary: &Binary, options: &Options) -> Result<()> {
    let mvps = binary.path()?;
    let collector = workspace::build("mvps-gc", binary.profile)?;
    let directory = TempDir::with_prefix("mvps-gc-crashes")?;
    let seed = options.seed.unwrap_or_else(seed_of_now);
    println!("seed {seed}");
    let server = ObjectServer::start(&directory.path().join("server"))?;
    let setup = Setup::new(&mvps, server.store("g/"), &directory.path().join("first"))?;
    let collector = Setup {
        binary: collector,
        ..setup.clone()
    };
    let duration = Duration::try_from_secs_f64(options.minutes * 60.0)?;
    let mut report = Report::default();
    let passed = report.check("gc-crashes", "beside a server under load", || {
        storm(setup.clone(), &collector, directory.path(), seed, duration)
    });
    let clean = report.check("gc-crashes", "check --all --read-data", || {
        check(&setup, &collector)
    });
    if !(passed && clean) {
        println!("kept: {}", directory.keep().display());
    }
    report.finish("cargo ci gc-crashes")
}

fn storm(
    setup: Setup,
    collector: &Setup,
    place: &Path,
    seed: u64,
    duration: Duration,
) -> Result<String> {
    let image = LoadedImage::new(setup, place, seed)?;
    let loops = Loops::start(collector, place, seed);
    let stormed = image.run(duration, || loops.must_run());
    let tally = loops.stop();
    let figures = stormed?;
    let tally = tally?;
    ensure!(tally.finished > 0 && tally.killed > 0, "{tally}");
    ensure!(tally.deleted > 0, "nothing was collected");
    Ok(format!("{figures}; {tally}"))
}

/// Nothing is dangling, nothing is damaged, and after one undisturbed pass nothing is left over.
fn check(setup: &Setup, collector: &Setup) -> Result<String> {
    let mut last = collector.command(&["--threshold-inactive-days", "0"]);
    command::run(&mut last, LIMIT)?;
    let words = ["check", "--all", "--read-data", "--output", "json"];
    let output = command::run(&mut setup.command(&words), LIMIT)?.stdout;
    let report: Value = serde_json::from_str(&output).context("not JSON")?;
    let images = report["images"].as_array().context("images")?;
    let mut verified = 0;
    for image in images {
        verified += image["data_bytes_verified"].as_u64().unwrap_or(0);
        ensure!(image["leaks"]["garbage"] == 0, "garbage is left: {image}");
    }
    ensure!(verified > 0, "no data was verified: {report}");
    Ok(format!("{} images, {verified} bytes", images.len()))
}
