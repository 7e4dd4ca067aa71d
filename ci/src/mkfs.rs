//! `cargo ci mkfs`: filesystems are made on, and everything is discarded from, a 2 TiB image.
//!
//! A discard of the whole disk arrives as hundreds of requests of just under 4 GiB that begin and
//! end within pages; what takes time per page, or refuses a length, shows here.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::Binary;
use crate::command;
use crate::daemon::{ObjectStore, Setup};
use crate::filesystem::Disk;
use crate::machine::{self, as_root};
use crate::report::Report;
use crate::server::Server;

/// The size of the disk.
const DISK_BYTES: u64 = 2 << 40;

/// When a command is given up.
const STEP_LIMIT: Duration = Duration::from_secs(600);

/// How to make each filesystem; all of them discard the disk first, as they do unasked.
const KINDS: &[(&str, &[&str])] = &[
    ("ext4", &["mkfs.ext4", "-q", "-F", "-E", "discard"]),
    ("xfs", &["mkfs.xfs", "-q", "-f"]),
    ("btrfs", &["mkfs.btrfs", "-q", "-f"]),
];

/// What is asked of it.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Longest time of one mkfs, in seconds.
    #[arg(long, default_value_t = 10.0)]
    mkfs_seconds: f64,
    /// Longest time of blkdiscard, in seconds.
    #[arg(long, default_value_t = 5.0)]
    discard_seconds: f64,
}

/// Runs it on a local store, one image for each kind.
///
/// # Errors
/// If a command fails or takes longer than it may, or a tool is missing.
pub fn run(binary: &Binary, options: &Options) -> Result<()> {
    machine::ensure(machine::NBD_TOOLS)?;
    machine::ensure(machine::FILESYSTEM_TOOLS)?;
    let directory = TempDir::with_prefix("mvps-mkfs")?;
    let place = directory.path();
    let store = ObjectStore::Local(place.join("objects"));
    let mut daemon = Setup::new(&binary.path()?, store, place)?.start()?;
    let mut report = Report::default();
    for (kind, command) in KINDS {
        let uri = Server::uri(&mut daemon, kind, DISK_BYTES)?;
        report.check(kind, "mkfs of 2 TiB", || {
            timed(&uri, place, command, options.mkfs_seconds)
        });
        report.check(kind, "blkdiscard of 2 TiB", || {
            timed(&uri, place, &["blkdiscard", "-f"], options.discard_seconds)
        });
    }
    report.check("all", "clean shutdown (SIGTERM)", || {
        Ok(format!("{:.1} s", daemon.stop()?.as_secs_f64()))
    });
    report.finish("cargo ci mkfs")
}

/// Runs a command on the disk; its last argument is the device.
fn timed(uri: &str, place: &Path, command: &[&str], limit_seconds: f64) -> Result<String> {
    let disk = Disk::attach(uri, place)?;
    let started = Instant::now();
    let finished = command::run(
        as_root(command[0]).args(&command[1..]).arg(&disk.device),
        STEP_LIMIT,
    );
    let took = started.elapsed().as_secs_f64();
    disk.detach()?;
    finished?;
    ensure!(
        took <= limit_seconds,
        "it took {took:.1} s; {limit_seconds} s are allowed"
    );
    Ok(format!("{took:.1} s"))
}
