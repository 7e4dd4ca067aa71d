//! `cargo ci kill`: the real daemon is killed at random instants under load, and what is left is
//! checked against what its clients know.
//!
//! The load and the model are those of `model`; [`rounds`] and [`takeover`] are the modes.

mod rounds;
mod takeover;

use std::path::Path;

use anyhow::Result;
use tempfile::TempDir;

use crate::model::history::Survives;
use crate::model::verdict::Figures;
use crate::rig::numbers::seed_of_now;
use crate::rig::object_server::ObjectServer;
use crate::rig::object_server::ObjectStore;
use crate::rig::report::Report;
use crate::rig::workspace::Binary;

use rounds::Rules;

/// What is lost when the daemon is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Nothing but the process: restart on the same buffer store.
    A,
    /// The buffer store: refused, taken over, back at the last checkpoint.
    B,
    /// Nothing: a second daemon takes over while the first lives.
    C,
    /// The buffer store, but clients asked for `durability = object-store`.
    D,
}

/// Where the images of the rounds live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Store {
    /// In a directory.
    Local,
    /// In the S3 server.
    S3,
}

/// How often to kill, in which modes, and where the images are.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Rounds of each mode.
    #[arg(long, default_value_t = 50)]
    pub rounds: usize,
    /// Only this mode.
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// Where the images live.
    #[arg(long, value_enum, default_value = "local")]
    pub store: Store,
    /// Chooses loads and instants; by default something new.
    #[arg(long)]
    pub seed: Option<u64>,
}

/// Runs all modes, or the one that `options` name.
///
/// # Errors
/// If a round cannot be explained; the directory of its daemons is then kept.
pub fn run(binary: &Binary, options: &Options) -> Result<()> {
    let binary = binary.path()?;
    let directory = TempDir::with_prefix("mvps-kill")?;
    let seed = options.seed.unwrap_or_else(seed_of_now);
    println!("seed {seed}");
    let server = match options.store {
        Store::Local => None,
        Store::S3 => Some(ObjectServer::start(&directory.path().join("server"))?),
    };
    let modes = match options.mode {
        Some(mode) => vec![mode],
        None => vec![Mode::A, Mode::B, Mode::C, Mode::D],
    };
    let mut report = Report::default();
    let mut failed = false;
    for mode in modes {
        let place = directory.path().join(format!("{mode:?}"));
        let store = match &server {
            None => ObjectStore::Local(place.join("objects")),
            Some(server) => server.store(&format!("kill-{mode:?}/")),
        };
        failed |= !report.check("kill", describe(mode), || {
            run_mode(mode, options.rounds, &binary, store, &place, seed)
        });
    }
    if failed {
        println!("kept: {}", directory.keep().display());
    }
    report.finish("cargo ci kill")
}

fn describe(mode: Mode) -> &'static str {
    match mode {
        Mode::A => "a: same buffer store",
        Mode::B => "b: buffer store lost",
        Mode::C => "c: taken over alive",
        Mode::D => "d: durable in the object store",
    }
}

fn run_mode(
    mode: Mode,
    rounds: usize,
    binary: &Path,
    store: ObjectStore,
    place: &Path,
    seed: u64,
) -> Result<String> {
    let rules = |name, loses_buffer, survives, durable_in_object_store| Rules {
        name,
        loses_buffer,
        survives,
        durable_in_object_store,
    };
    let rules = match mode {
        Mode::A => rules("a", false, Survives::Acknowledged, false),
        Mode::B => rules("b", true, Survives::Checkpointed, false),
        Mode::D => rules("d", true, Survives::Flushed, true),
        Mode::C => {
            let (figures, longest) = takeover::run(rounds, binary, &store, place, seed)?;
            let summary = summary(figures);
            return Ok(format!(
                "{summary}, fenced within {:.1} s",
                longest.as_secs_f64()
            ));
        }
    };
    rounds::run(rules, rounds, binary, store, place, seed).map(summary)
}

fn summary(figures: Figures) -> String {
    let Figures {
        rounds,
        operations,
        included,
        reads,
        transaction_reads,
    } = figures;
    format!(
        "{rounds} rounds, {operations} operations, {included} found, {reads} reads and \
         {transaction_reads} units read in transactions explained"
    )
}
