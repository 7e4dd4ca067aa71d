//! `cargo ci outage`: the S3 server is cut off for a minute under load. Nothing may fail: writes
//! go on until the buffer's limit, then slow down and wait, and everything drains afterwards.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::rig::daemon::{Daemon, Setup};
use crate::rig::fio::{self, Figures};
use crate::rig::machine;
use crate::rig::object_server::ObjectServer;
use crate::rig::report::Report;
use crate::rig::server::Server;
use crate::rig::workspace::Binary;

/// How much is written per second while the store answers.
const RATE_MIB: u64 = 20;

/// The buffer's limit: reached after less than half of the outage.
const BUFFER_LIMIT_MIB: u64 = 384;

/// What the buffer may take on disk at the highest, in percent of its limit: it is looked at before
/// a commit, not during one.
const BUFFER_LIMIT_PERCENT: u64 = 110;

/// Load before and after the outage.
const MARGIN: Duration = Duration::from_secs(10);

/// How long things may take after the outage.
const DRAIN_LIMIT: Duration = Duration::from_secs(300);

/// The most that the daemon may use, outages included (DESIGN §4).
const RSS_LIMIT_BYTES: u64 = 1024 * 1024 * 1024;

/// How long the outage lasts.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Seconds of the outage.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
}

/// Cuts the object store off under load and restores it.
///
/// # Errors
/// If a request fails, memory or buffer exceeds its limit, or data is missing afterwards.
pub fn run(binary: &Binary, options: &Options) -> Result<()> {
    machine::ensure(machine::NBD_TOOLS)?;
    let binary = binary.path()?;
    let directory = TempDir::with_prefix("mvps-outage")?;
    let mut server = ObjectServer::start(&directory.path().join("server"))?;
    let mut report = Report::default();
    let outage = Duration::from_secs(options.seconds);
    report.check("outage", "no failure, then everything drains", || {
        under_load(outage, &binary, &mut server, directory.path())
    });
    report.finish("cargo ci outage")
}

fn under_load(
    outage: Duration,
    binary: &Path,
    server: &mut ObjectServer,
    place: &Path,
) -> Result<String> {
    let seconds = (outage + 2 * MARGIN).as_secs();
    let written_mib = RATE_MIB * seconds;
    let mut setup = Setup::new(binary, server.store("outage/"), place)?;
    setup.flags = ["--checkpoint-interval-ms", "2000", "--buffer-limit-bytes"]
        .map(str::to_owned)
        .to_vec();
    setup.flags.push(format!("{BUFFER_LIMIT_MIB}MiB"));
    let mut daemon = setup.start()?;
    let uri = daemon.uri("outage", written_mib * 1024 * 1024)?;
    let log = place.join("outage-log");
    let writer = {
        let (uri, log) = (uri.clone(), log.clone());
        std::thread::spawn(move || write(&uri, &log, written_mib, outage))
    };
    std::thread::sleep(MARGIN);
    server.cut()?;
    let began = Instant::now();
    let (mut highest, mut buffer) = (0, 0);
    while began.elapsed() < outage {
        std::thread::sleep(Duration::from_millis(500));
        daemon.must_run()?;
        let (now, _) = daemon.memory_bytes()?;
        highest = highest.max(now);
        buffer = buffer.max(directory_bytes(&setup.buffer.join("images")));
        ensure!(!writer.is_finished(), "the load ended during the outage");
    }
    server.restore()?;
    let figures = writer.join().expect("the writer returns")?;
    let drained = drain(&daemon)?;
    ensure!(highest <= RSS_LIMIT_BYTES, "RSS {} MiB", highest >> 20);
    let allowed = (BUFFER_LIMIT_MIB << 20) / 100 * BUFFER_LIMIT_PERCENT;
    ensure!(
        buffer <= allowed,
        "the buffer takes {} MiB on disk",
        buffer >> 20
    );
    daemon.stop()?;
    setup.buffer = place.join("another-buffer");
    found_again(&setup, written_mib)?;
    let rates = rates(&log, outage)?;
    rates.must_slow_down(outage)?;
    let during: Vec<String> = rates.during.iter().map(|one| format!("{one:.1}")).collect();
    Ok(format!(
        "{written_mib} MiB written and verified; MiB/s before {:.1}, each 10 s of the outage {}, \
         after {:.1}; longest write {:.1} s; drained {:.1} s after; RSS highest {} MiB, buffer on \
         disk {} MiB of {BUFFER_LIMIT_MIB}",
        rates.before,
        during.join(" "),
        rates.after,
        figures.longest_ms / 1000.0,
        drained.as_secs_f64(),
        highest >> 20,
        buffer >> 20,
    ))
}

/// Everything is there when a daemon starts with an empty buffer store.
fn found_again(setup: &Setup, written_mib: u64) -> Result<()> {
    let mut daemon = setup.start()?;
    let uri = daemon.uri("outage", written_mib * 1024 * 1024)?;
    let mut verify = verified(&uri, written_mib);
    fio::jobs(verify.arg("--verify_only"), DRAIN_LIMIT)
        .context("the data after a restart with an empty buffer store")?;
    daemon.stop()?;
    Ok(())
}

/// fio over the whole disk, every block once, with checksums that a later run can verify.
fn verified(uri: &str, mib: u64) -> std::process::Command {
    let mut command = fio::nbd(uri);
    command.args(["--name=outage", "--rw=randwrite", "--bs=64k", "--iodepth=8"]);
    command.args(["--verify=crc32c", "--verify_fatal=1", "--do_verify=0"]);
    command.args(["--randseed=5", &format!("--size={mib}m")]);
    command
}

fn write(uri: &str, log: &Path, mib: u64, outage: Duration) -> Result<Figures> {
    let mut command = verified(uri, mib);
    command.arg(format!("--rate={RATE_MIB}m"));
    command.arg(format!("--write_bw_log={}", log.display()));
    command.arg("--log_avg_msec=1000");
    let jobs = fio::jobs(&mut command, outage + 2 * MARGIN + DRAIN_LIMIT)?;
    Ok(Figures::of(&jobs[0], "write"))
}

/// A checkpoint succeeds once everything before it is uploaded.
fn drain(daemon: &Daemon) -> Result<Duration> {
    let began = Instant::now();
    daemon
        .checkpoint("outage")
        .context("the checkpoint after the outage")?;
    Ok(began.elapsed())
}

fn directory_bytes(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => directory_bytes(&entry.path()),
        Ok(metadata) => {
            // What it takes on the disk, not its length: journals are made long and sparse.
            use std::os::unix::fs::MetadataExt;
            metadata.blocks() * 512
        }
        // Deleted between the listing and the look: it takes nothing any more.
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// MiB/s.
struct Rates {
    before: f64,
    /// Of every ten seconds of the outage.
    during: Vec<f64>,
    after: f64,
}

impl Rates {
    /// An outage that is long enough meets the buffer's limit.
    fn must_slow_down(&self, outage: Duration) -> Result<()> {
        let is_long = outage.as_secs() * RATE_MIB > 2 * BUFFER_LIMIT_MIB;
        let last = self.during.last().copied().unwrap_or(0.0);
        ensure!(
            !is_long || last < RATE_MIB as f64 / 2.0,
            "writes did not slow down: {:?} MiB/s",
            self.during
        );
        Ok(())
    }
}

fn rates(log: &Path, outage: Duration) -> Result<Rates> {
    let text = fs::read_to_string(format!("{}_bw.1.log", log.display()))?;
    let mut samples: Vec<(u64, f64)> = Vec::new();
    for line in text.lines() {
        let mut fields = line.split(',').map(str::trim);
        let at: u64 = fields.next().context("a time")?.parse()?;
        let rate: f64 = fields.next().context("a rate")?.parse()?;
        samples.push((at / 1000, rate / 1024.0));
    }
    let mean = |from: u64, to: u64| {
        let within = samples.iter().filter(|(at, _)| (from..to).contains(at));
        // fio logs no line for a second in which nothing was completed.
        within
            .map(|(_, rate)| rate)
            .fold(0.0, |sum, rate| sum + rate)
            / to.saturating_sub(from).max(1) as f64
    };
    let (start, end) = (MARGIN.as_secs(), (MARGIN + outage).as_secs());
    let last = samples.last().map_or(end, |(at, _)| *at);
    let tens = (start..end).step_by(10);
    Ok(Rates {
        before: mean(1, start),
        during: tens.map(|from| mean(from, end.min(from + 10))).collect(),
        after: mean(end, last.max(end + 1)),
    })
}
