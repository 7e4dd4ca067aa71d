//! `cargo ci mkfs`: filesystems are made on, and everything is discarded from, a 2 TiB image; then
//! the collector runs, and the bucket is as good as empty.
//!
//! A discard of the whole disk arrives as hundreds of requests of just under 4 GiB that begin and
//! end within pages; what takes time per page, or refuses a length, shows here.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::rig::command;
use crate::rig::daemon::{Daemon, Setup};
use crate::rig::disk::Disk;
use crate::rig::machine::{self, as_root};
use crate::rig::object_server::{BUCKET, ObjectServer, ObjectStore, object_bytes};
use crate::rig::report::Report;
use crate::rig::server::{Server, StandIn, StandInKind};
use crate::rig::workspace::{self, Binary};

/// The size of the disk.
const DISK_BYTES: u64 = 2 << 40;

/// When a command is given up.
const STEP_LIMIT: Duration = Duration::from_secs(600);

/// What is written beside a filesystem's own, so that there is something to set free, in MiB.
const CONTENT_MIB: u64 = 256;

/// Where that is, in MiB.
const CONTENT_AT_MIB: u64 = 1 << 20;

/// What may be left in the bucket once everything is discarded and collected: the map's leaves
/// that are empty now, and two manifests.
const LEFT_MAX_BYTES: u64 = 1 << 20;

/// Below this in the bucket. It and the images' names are short: see [`ObjectServer::store`].
const PREFIX: &str = "m/";

/// How to make each filesystem; all of them discard the disk first, as they do unasked.
const KINDS: &[(&str, &[&str])] = &[
    ("ext4", &["mkfs.ext4", "-q", "-F", "-E", "discard"]),
    ("xfs", &["mkfs.xfs", "-q", "-f"]),
    ("btrfs", &["mkfs.btrfs", "-q", "-f"]),
];

/// The limits of time, and what to compare with.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Longest time of one mkfs, in seconds.
    #[arg(long, default_value_t = 10.0)]
    mkfs_seconds: f64,
    /// Longest time of blkdiscard, in seconds.
    #[arg(long, default_value_t = 5.0)]
    discard_seconds: f64,
    /// Also run everything on nbdkit's memory plugin, for comparison.
    #[arg(long)]
    compare: bool,
}

/// Makes every filesystem on an image of its own on the S3 server, then discards everything.
///
/// # Errors
/// If a command fails or takes longer than it may, space stays taken, or a tool is missing.
pub fn run(binary: &Binary, options: &Options) -> Result<()> {
    machine::ensure(machine::NBD_TOOLS)?;
    machine::ensure(machine::FILESYSTEM_TOOLS)?;
    let collector = workspace::build("mvps-gc", binary.profile)?;
    let directory = TempDir::with_prefix("mvps-mkfs")?;
    let place = directory.path();
    let mut report = Report::default();
    if options.compare {
        let nbdkit = StandIn::start(StandInKind::Nbdkit, place, "memory", DISK_BYTES)?;
        for (kind, command) in KINDS {
            report.check("nbdkit", &format!("mkfs.{kind}"), || {
                timed(&nbdkit.uri(), place, command, options.mkfs_seconds)
            });
        }
        let discard = ["blkdiscard", "-f"];
        report.check("nbdkit", "blkdiscard", || {
            timed(&nbdkit.uri(), place, &discard, options.discard_seconds)
        });
    }
    let server = ObjectServer::start(&place.join("server"))?;
    let setup = Setup::new(&binary.path()?, server.store(PREFIX), place)?;
    let mut run = Run {
        place,
        bucket: place.join("server").join(BUCKET).join(PREFIX),
        collector,
        daemon: setup.start()?,
    };
    for (kind, command) in KINDS {
        let uri = run.daemon.uri(kind, DISK_BYTES)?;
        report.check(kind, "mkfs of 2 TiB", || {
            timed(&uri, place, command, options.mkfs_seconds)
        });
        let mut before = 0;
        report.check(kind, "content beside it, and a checkpoint", || {
            run.fill(&uri)?;
            run.daemon.checkpoint(kind)?;
            before = object_bytes(&run.bucket)?;
            Ok(format!("{} MiB in the bucket", before >> 20))
        });
        report.check(kind, "blkdiscard of 2 TiB", || {
            let discard = ["blkdiscard", "-f"];
            let took = timed(&uri, place, &discard, options.discard_seconds)?;
            nothing_is_stored(&uri)?;
            Ok(took)
        });
        report.check(kind, "the space is free", || {
            run.is_free(kind, &uri, before)
        });
    }
    report.check("all", "clean shutdown (SIGTERM)", || {
        Ok(format!("{:.1} s", run.daemon.stop()?.as_secs_f64()))
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
    Ok(format!("{took:.2} s"))
}

/// All of the disk is one hole.
fn nothing_is_stored(uri: &str) -> Result<()> {
    let mut nbdinfo = machine::system("nbdinfo");
    let map = command::run(nbdinfo.args(["--map", "--totals", uri]), STEP_LIMIT)?.stdout;
    let words: Vec<&str> = map.split_whitespace().collect();
    let whole = DISK_BYTES.to_string();
    let is_hole = words.first() == Some(&whole.as_str()) && words.contains(&"hole,zero");
    ensure!(is_hole && map.lines().count() == 1, "the map says {map}");
    Ok(())
}

struct Run<'a> {
    place: &'a Path,
    bucket: PathBuf,
    collector: PathBuf,
    daemon: Daemon,
}

impl Run<'_> {
    /// Writes what does not compress in the middle of the disk.
    fn fill(&self, uri: &str) -> Result<()> {
        let disk = Disk::attach(uri, self.place)?;
        let mut dd = as_root("dd");
        dd.args(["if=/dev/urandom", "bs=1M", "conv=fsync"]);
        dd.arg(format!("of={}", disk.device));
        dd.arg(format!("count={CONTENT_MIB}"));
        dd.arg(format!("seek={CONTENT_AT_MIB}"));
        let written = command::run(&mut dd, STEP_LIMIT);
        disk.detach()?;
        written.map(drop)
    }

    /// Collects, and looks at what is left of `before` bytes.
    fn is_free(&mut self, kind: &str, uri: &str, before: u64) -> Result<String> {
        ensure!(before > CONTENT_MIB << 20, "only {before} bytes were there");
        self.daemon.checkpoint(kind)?;
        // What a version let go of is retired with the next one.
        let again = "h.pwrite(b'x', 0); h.trim(4096, 0); h.flush()";
        let mut nbdsh = machine::system("nbdsh");
        command::run(nbdsh.args(["--uri", uri, "--command", again]), STEP_LIMIT)?;
        self.daemon.checkpoint(kind)?;
        self.collect()?;
        let left = object_bytes(&self.bucket)?;
        ensure!(
            left <= LEFT_MAX_BYTES,
            "{left} of {before} bytes are left in the bucket"
        );
        Ok(format!("{} KiB of {} MiB left", left >> 10, before >> 20))
    }

    fn collect(&self) -> Result<()> {
        let ObjectStore::S3 { bucket, prefix, .. } = &self.daemon.setup().store else {
            bail!("this runs on the S3 server");
        };
        let setup = Setup {
            binary: self.collector.clone(),
            ..self.daemon.setup().clone()
        };
        let mut command = setup.command(&["--bucket", bucket, "--prefix", prefix]);
        command.args(["--threshold-inactive-days", "0"]);
        command::run(&mut command, STEP_LIMIT).context("mvps-gc")?;
        Ok(())
    }
}
