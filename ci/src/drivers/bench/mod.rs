//! `cargo ci bench`: what users do, at sizes beyond every buffer, in turns with `qemu-nbd` on a raw
//! file, so that whatever slows the machine slows both.
//!
//! Figures are medians of the rounds. A ratio is mvps divided by the other. Figures that miss their
//! goals are marked in the tables, and listed and counted at the end, but fail nothing: one run on
//! a busy machine proves nothing by itself.
//!
//! Invariants: nothing is capped so that it stays inside a cache or a generation; daemons run with
//! the flags of production, and a table whose daemon does not says so; a run that measures nothing
//! (`--smoke`) says so above every table.

mod behind;
mod cold;
mod contestant;
mod figures;
mod goals;
mod near;
mod options;
mod plain_sdk;
mod production;
mod restart;
mod results;
mod rows;
mod setup;
mod sustained;
mod table;
mod upload;
mod verdict;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;

use crate::rig::command;
use crate::rig::host::Host;
use crate::rig::machine;
use crate::rig::workspace::{self, Profile};

use contestant::Binaries;
use goals::Store;
use options::check_room;
use results::Results;
use setup::Bench;

pub use options::Options;
pub use plain_sdk::{PlainSdk, run as run_plain_sdk};

/// How long the daemon may take to say what it is.
const HELP_LIMIT: Duration = Duration::from_secs(10);

/// Measures every row on every store and prints the tables.
///
/// # Errors
/// If the region or the disk is too small, or a server or a client fails.
pub fn run(binary: Option<&Path>, options: &Options) -> Result<()> {
    options.check()?;
    machine::ensure(machine::NBD_TOOLS)?;
    let directory = match &options.dir {
        Some(parent) => {
            std::fs::create_dir_all(parent)?;
            TempDir::with_prefix_in("mvps-bench-", parent)?
        }
        None => TempDir::with_prefix("mvps-bench-")?,
    };
    let host = Host::seen_from(directory.path())?;
    host.lines().iter().for_each(|line| println!("{line}"));
    check_room("the tables", host.free_bytes(), options.room_bytes())?;
    let binaries = Binaries {
        mvps: match binary {
            Some(path) => std::path::absolute(path)?,
            None => workspace::build("mvps", Profile::Release)?,
        },
        collector: workspace::build("mvps-gc", Profile::Release)?,
    };
    let say = |argument: &[&str]| {
        let said = command::run(Command::new(&binaries.mvps).args(argument), HELP_LIMIT);
        said.map(|said| said.stdout)
    };
    let version = format!(
        "{} ({})",
        say(&["--version"])?.trim(),
        binaries.mvps.display()
    );
    println!("server: {version}");
    let has_disk_cache = say(&["serve", "--help"])?.contains("--disk-cache-bytes");
    let bench = Bench {
        options,
        binaries,
        place: directory.path(),
        has_disk_cache,
    };
    let mut results = Results::new(options.smoke);
    for (name, part) in PARTS {
        // Hours of figures are not thrown away because of what comes after them.
        if let Err(error) = part(&bench, &mut results) {
            results.failed(name, &error);
        }
        results.save(&host, &version, options.json.as_deref())?;
    }
    results.finish()
}

type Part = fn(&Bench<'_>, &mut Results) -> Result<()>;

/// What is measured, in this order.
const PARTS: &[(&str, Part)] = &[
    ("local", |bench, results| {
        near::measure(bench, Store::Local, results)
    }),
    ("s3", |bench, results| {
        near::measure(bench, Store::S3, results)
    }),
    ("behind", behind::measure),
    ("restart", restart::measure),
    ("cold", cold::measure),
    ("upload and sustained", upload_and_sustained),
];

fn upload_and_sustained(bench: &Bench<'_>, results: &mut Results) -> Result<()> {
    let options = bench.options;
    let is_sustained = options.wants(sustained::NAME) && options.sustained_seconds > 0;
    if !is_sustained && !options.wants(upload::NAME) {
        return Ok(());
    }
    let upload_rate = upload::measure(bench, results)?;
    match is_sustained {
        true => sustained::measure(bench, upload_rate, results),
        false => Ok(()),
    }
}
