//! `cargo ci hostile`: a storm of clients that mean harm, while fio runs on another image.
//!
//! Thousands of connections stall at every stage of the protocol, send random bytes at every stage,
//! cut, oversize and reorder requests, or ask and never read. What is shown: fio's throughput
//! alone, during the storm and after it, that none of its requests failed, how long others with a
//! token wait to be let in meanwhile, the daemon's memory and sockets before, at their highest and
//! after, and that nothing panicked.

mod attack;
mod images;
mod new_connections;

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum as _;
use tempfile::TempDir;

use crate::rig::daemon::{Daemon, Setup};
use crate::rig::fio::{self, Figures};
use crate::rig::machine;
use crate::rig::object_server::ObjectStore;
use crate::rig::report::Report;
use crate::rig::token::Claims;
use crate::rig::workspace::Binary;

use images::{IMAGE_BYTES, NOISY, QUIET};

/// The throughput that must be left, in parts of what fio reaches alone.
const DURING_MIN: f64 = 0.4;
const AFTER_MIN: f64 = 0.7;

/// Little memory for what is buffered and cached, so that what the storm takes is seen beside it;
/// and images that nobody uses are soon closed, so that it is seen whether it gives all back.
const SMALL_BUFFERS: [&str; 3] = [
    "--checkpoint-bytes=16MiB",
    "--cache-bytes=64MiB",
    "--idle-close-ms=20000",
];

const MIB: u64 = 1 << 20;

/// The daemon's memory, at its highest. Its limits add up to more (each image's buffer twice,
/// payload of writes and of reads, transactions, the cache: 1,152 MiB); a storm does not fill them
/// all at once.
const RESIDENT_MAX_BYTES: u64 = 640 * MIB;

/// How long the storm takes to be up, and how much longer than fio it goes on.
const RISE: Duration = Duration::from_secs(2);

/// How much more memory than before may be left after the storm: caches and allocator fill up.
const RESIDENT_LEFT_MAX_BYTES: u64 = 192 * MIB;

/// How long it may take to be given back: until the images are closed that nobody uses any more.
const SETTLE_LIMIT: Duration = Duration::from_secs(90);

/// How long sockets may take to be gone after the storm: the time of a handshake, and some.
const CALM_LIMIT: Duration = Duration::from_secs(30);

/// How the storm is run.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Hostile connections.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Seconds of each phase: alone, during, after.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Show fio's rates without judging them, for a machine that does other things.
    #[arg(long)]
    no_rates: bool,
    /// Only these attacks, to find out which one hurts; all of them unless given.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<attack::Attack>,
}

/// Runs fio alone, during the storm and after it, and checks what the storm left.
///
/// # Errors
/// If fio fails or slows down too much, or memory or sockets are not given back.
pub fn run(binary: &Binary, options: &Options) -> Result<()> {
    machine::ensure(machine::NBD_TOOLS)?;
    raise_descriptor_limit()?;
    let directory = TempDir::with_prefix("mvps-hostile").context("a scratch directory")?;
    let store = ObjectStore::Local(directory.path().join("objects"));
    let mut setup = Setup::new(&binary.path()?, store, directory.path())?;
    setup.flags = SMALL_BUFFERS.iter().map(ToString::to_string).collect();
    let mut report = Report::default();
    let mut daemon = setup.start()?;
    storm(&mut report, &mut daemon, options)?;
    report.check("hostile", "clean shutdown (SIGTERM)", || {
        let took = daemon.stop()?;
        Ok(format!("{:.1} s", took.as_secs_f64()))
    });
    report.check("hostile", "no panic", || {
        let log = fs::read_to_string(&setup.log)?;
        let panic = log.lines().find(|line| line.contains("panicked"));
        ensure!(panic.is_none(), "{}", panic.unwrap_or_default());
        Ok(format!("{} lines of log", log.lines().count()))
    });
    report.finish("cargo ci hostile")
}

fn storm(report: &mut Report, daemon: &mut Daemon, options: &Options) -> Result<()> {
    let seconds = options.seconds.max(5);
    // Once, so that every block is written and every cache warm.
    fio_rate(daemon, 5)?;
    let alone = fio_rate(daemon, seconds)?;
    let sockets_before = daemon.sockets()?;
    let (resident_before, _) = daemon.memory_bytes()?;
    let plan = attack::Plan {
        address: match &daemon.setup().listen {
            crate::rig::daemon::Listen::Tcp(address) => *address,
            crate::rig::daemon::Listen::Unix(_) => unreachable!("it listens on TCP"),
        },
        tokens: NOISY
            .iter()
            .map(|image| Claims::image(image, IMAGE_BYTES).sign())
            .collect(),
        connections: options.connections,
        duration: RISE + Duration::from_secs(seconds) + RISE,
        attacks: match &options.only[..] {
            [] => attack::Attack::value_variants().to_vec(),
            only => only.to_vec(),
        },
    };
    let attackers = std::thread::spawn(move || attack::run(&plan));
    let new_connections =
        new_connections::begin(daemon.setup(), RISE, Duration::from_secs(seconds));
    std::thread::sleep(RISE);
    let during = fio_rate(daemon, seconds);
    let sockets_during = daemon.sockets()?;
    let tally = attackers
        .join()
        .map_err(|_| anyhow::anyhow!("the attackers panicked"))??;
    let began = Instant::now();
    let after = fio_rate(daemon, seconds);
    let check = |report: &mut Report, name: &str, rate: Result<f64>, least: f64| {
        report.check("hostile", name, || {
            let rate = rate?;
            let part = rate / alone;
            ensure!(
                options.no_rates || part >= least,
                "{part:.2} of what it reaches alone"
            );
            let judged = if options.no_rates { ", not judged" } else { "" };
            let mib = rate / f64::from(1 << 20);
            Ok(format!(
                "{mib:.0} MiB/s, {part:.2} of alone{judged}, no error"
            ))
        });
    };
    report.check("hostile", "fio alone", || {
        Ok(format!("{:.0} MiB/s", alone / f64::from(1 << 20)))
    });
    report.check("hostile", "the storm", || Ok(tally.to_string()));
    check(report, "fio during the storm", during, DURING_MIN);
    check(report, "fio after the storm", after, AFTER_MIN);
    report.check("hostile", "new connections during the storm", || {
        new_connections::judge(new_connections)
    });
    report.check("hostile", "sockets", || {
        let after = calm(daemon, sockets_before, began)?;
        Ok(format!(
            "{sockets_before} before, {sockets_during} during, {after} after"
        ))
    });
    report.check("hostile", "memory", || {
        let (_, highest) = daemon.memory_bytes()?;
        let after = settled(daemon, resident_before + RESIDENT_LEFT_MAX_BYTES)?;
        let seen = format!(
            "RSS {} MiB before, {} MiB after, {} MiB at its highest",
            resident_before / MIB,
            after / MIB,
            highest / MIB
        );
        ensure!(highest <= RESIDENT_MAX_BYTES, "{seen}");
        ensure!(after <= resident_before + RESIDENT_LEFT_MAX_BYTES, "{seen}");
        Ok(seen)
    });
    report.check("hostile", "what was written reads back", || {
        verified(daemon)
    });
    daemon.must_run()
}

/// fio's bytes per second, reads and writes together.
fn fio_rate(daemon: &Daemon, seconds: u64) -> Result<f64> {
    let uri = daemon.uri_for(&Claims::image(QUIET, IMAGE_BYTES));
    let mut command = fio::nbd(&uri);
    command
        .args(["--name=quiet", "--rw=randrw", "--iodepth=16"])
        // What needs room for its payload is among it.
        .args(["--bssplit=4k/90:256k/10", "--size=64m", "--time_based"])
        .arg(format!("--runtime={seconds}"));
    let jobs = fio::jobs(&mut command, Duration::from_secs(seconds + 120))?;
    let job = jobs.first().context("a job of fio")?;
    let rate = ["read", "write"].map(|side| Figures::of(job, side).bytes_per_second);
    Ok(rate.iter().sum())
}

fn verified(daemon: &Daemon) -> Result<String> {
    let uri = daemon.uri_for(&Claims::image(QUIET, IMAGE_BYTES));
    let mut command = fio::nbd(&uri);
    command
        .args([
            "--name=verified",
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=16",
        ])
        .args(["--size=32m", "--verify=crc32c", "--do_verify=1"]);
    fio::jobs(&mut command, Duration::from_secs(120))?;
    Ok("32 MiB".to_owned())
}

/// Waits until the daemon has no more sockets than before.
fn calm(daemon: &Daemon, before: usize, began: Instant) -> Result<usize> {
    loop {
        let now = daemon.sockets()?;
        if now <= before {
            return Ok(now);
        }
        ensure!(began.elapsed() < CALM_LIMIT, "{before} before, {now} left");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The daemon's memory once it is no more than `most`, or has had its time.
fn settled(daemon: &Daemon, most: u64) -> Result<u64> {
    let began = Instant::now();
    loop {
        let (now, _) = daemon.memory_bytes()?;
        if now <= most || began.elapsed() >= SETTLE_LIMIT {
            return Ok(now);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Ten thousand sockets need more descriptors than a shell gives.
fn raise_descriptor_limit() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).context("the limit of open files")
}
