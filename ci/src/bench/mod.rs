//! `cargo ci bench`: mvps on the S3 server beside `nbdkit memory` and `qemu-nbd` on a raw file, in
//! one run, interleaved, so that whatever slows the machine slows all three.
//!
//! Figures are medians of the runs; a ratio is mvps divided by the other. Nothing is asserted
//! here: the tables are printed, and rows below the goal are marked.

mod cold;
mod figures;
mod plain_sdk;
mod rows;
mod sustained;
mod upload;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;

use crate::daemon::{Daemon, Setup};
use crate::machine;
use crate::object_server::ObjectServer;
use crate::server::{Server, StandIn, StandInKind};
use crate::workspace::{self, Profile};

pub use plain_sdk::{PlainSdk, run as run_plain_sdk};

/// What to measure, and for how long.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Runs of each row; the median counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Seconds of each run of a row.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Seconds of the sustained writes; 0 leaves them out.
    #[arg(long, default_value_t = 120)]
    sustained_seconds: u64,
    /// Leave out mvps, to prove the rows on the others.
    #[arg(long)]
    without_mvps: bool,
}

/// The size of the disks.
const DISK_BYTES: u64 = 1024 * 1024 * 1024;

/// Flags with which nothing is checkpointed behind a row's back.
const NO_CHECKPOINTS: &[&str] = &[
    "--checkpoint-interval-ms",
    "86400000",
    "--checkpoint-bytes",
    "64GiB",
    "--buffer-limit-bytes",
    "128GiB",
];

/// Measures and prints.
///
/// # Errors
/// If something does not run.
pub fn run(options: &Options) -> Result<()> {
    machine::ensure(machine::NBD_TOOLS)?;
    let directory = TempDir::with_prefix("mvps-bench")?;
    let place = directory.path();
    let nbdkit = StandIn::start(StandInKind::Nbdkit, place, "nbdkit", DISK_BYTES)?;
    let qemu = StandIn::start(StandInKind::QemuNbd, place, "raw", DISK_BYTES)?;
    let stand_ins = [("nbdkit", &nbdkit), ("qemu-nbd", &qemu)];
    if options.without_mvps {
        let uris = stand_ins.map(|(name, server)| (name.to_owned(), server.uri()));
        rows::buffered(options, &uris)?.print("buffered");
        return Ok(());
    }
    let binary = workspace::build("mvps", Profile::Release)?;
    let mut server = ObjectServer::start(&place.join("objects"))?;
    let mut daemon = start(&binary, &server, place, "rows", NO_CHECKPOINTS)?;
    let mut uris = vec![("mvps".to_owned(), daemon.uri("bench", DISK_BYTES)?)];
    uris.extend(stand_ins.map(|(name, server)| (name.to_owned(), server.uri())));
    rows::buffered(options, &uris)?.print("buffered (nothing checkpointed)");
    print_memory(&daemon, &qemu)?;
    upload::checkpoint_everything(&daemon, &mut server, &uris[0].1)?;
    rows::cached(options, &uris)?.print("checkpointed, read through the cache");
    print_memory(&daemon, &qemu)?;
    daemon.stop()?;
    cold::measure(options, &binary, &server, place)?;
    let upload_rate = upload::against_plain_sdk(&binary, &mut server, place)?;
    if options.sustained_seconds > 0 {
        let limit = Duration::from_secs(options.sustained_seconds);
        sustained::measure(limit, upload_rate, &binary, &server, place)?;
    }
    Ok(())
}

/// A daemon on the S3 server, with its own buffer store `name`.
fn start(
    binary: &Path,
    server: &ObjectServer,
    place: &Path,
    name: &str,
    flags: &[&str],
) -> Result<Daemon> {
    let mut setup = Setup::new(binary, server.store("bench/"), &place.join(name))?;
    setup.flags = flags.iter().map(ToString::to_string).collect();
    setup.start()
}

fn print_memory(daemon: &Daemon, qemu: &StandIn) -> Result<()> {
    let mib = |bytes| bytes / (1024 * 1024);
    let (now, highest) = daemon.memory_bytes()?;
    let (raw, _) = qemu.memory_bytes()?;
    println!(
        "RSS: mvps {} MiB (highest {}), qemu-nbd {} MiB",
        mib(now),
        mib(highest),
        mib(raw)
    );
    Ok(())
}
