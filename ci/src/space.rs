//! `cargo ci space`: random overwrites with checkpoints, cleaning and `mvps-gc` running; what the
//! bucket takes beside what is alive, and what was sent beside what was written.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::Binary;
use crate::command;
use crate::daemon::{Daemon, ObjectStore, Setup};
use crate::fio;
use crate::machine;
use crate::object_server::{BUCKET, ObjectServer};
use crate::server::Server;
use crate::workspace;

/// The image. Its name and the prefix are short: see [`ObjectServer::store`].
const IMAGE: &str = "s";

/// Below this in the bucket.
const PREFIX: &str = "space/";

/// How long one round of fio, and the rest that cleaning takes at the end, may last.
const LIMIT: Duration = Duration::from_secs(3600);

/// The bucket's bytes beside the live ones, in percent: at the end, and at any time after the
/// first round.
const END_PERCENT_MOST: u64 = 160;
const PEAK_PERCENT_MOST: u64 = 220;

/// Bytes sent beside bytes written, in percent: overwrites, and a fresh image in order.
const PUT_PERCENT_MOST: u64 = 180;
const FRESH_PERCENT_MOST: u64 = 102;

/// How much, and how often.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Size of the image in MiB. The targets are stated for 4096; a small image shows only that
    /// everything works, because checkpoints and steps do not shrink with it.
    #[arg(long, default_value_t = 4096)]
    pub image_size: u64,
    /// How often the image is overwritten.
    #[arg(long, default_value_t = 10)]
    pub rounds: u64,
    /// Seconds between two passes of the collector.
    #[arg(long, default_value_t = 5)]
    pub collect_every: u64,
    /// Run this collector instead of building one.
    #[arg(long)]
    pub mvps_gc: Option<PathBuf>,
}

/// Runs it.
///
/// # Errors
/// If a target is missed, or anything fails.
pub fn run(binary: &Binary, options: &Options) -> Result<()> {
    machine::ensure(machine::NBD_TOOLS)?;
    let collector = match &options.mvps_gc {
        Some(path) => std::path::absolute(path)?,
        None => workspace::build("mvps-gc", binary.profile)?,
    };
    let binary = binary.path()?;
    let directory = TempDir::with_prefix("mvps-space")?;
    let objects = directory.path().join("server");
    let mut server = ObjectServer::start(&objects)?;
    let setup = Setup::new(&binary, server.store(PREFIX), directory.path())?;
    let daemon = setup.start()?;
    let mut run = Run {
        bucket: objects.join(BUCKET).join(PREFIX),
        live_bytes: options.image_size << 20,
        collector,
        daemon,
        peak_percent: 0,
    };
    let fresh = run.fill(&mut server)?;
    let put = run.overwrite(&mut server, options)?;
    run.rest()?;
    run.collect()?;
    let end = run.percent()?;
    println!("bucket at the end       {end:>4} % of the live bytes (goal {END_PERCENT_MOST})");
    let peak = run.peak_percent;
    println!("highest after round 1   {peak:>4} % (goal {PEAK_PERCENT_MOST})");
    println!("PUT, overwrites         {put:>4} % of what was written (goal {PUT_PERCENT_MOST})");
    println!("PUT, fresh in order     {fresh:>4} % (goal {FRESH_PERCENT_MOST})");
    run.daemon.stop()?;
    ensure!(
        end <= END_PERCENT_MOST
            && peak <= PEAK_PERCENT_MOST
            && put <= PUT_PERCENT_MOST
            && fresh <= FRESH_PERCENT_MOST,
        "a target is missed"
    );
    Ok(())
}

struct Run {
    bucket: PathBuf,
    live_bytes: u64,
    collector: PathBuf,
    daemon: Daemon,
    peak_percent: u64,
}

impl Run {
    fn fio(&mut self, arguments: &[&str]) -> Result<()> {
        let uri = self.daemon.uri(IMAGE, self.live_bytes)?;
        let mut fio = fio::nbd(&uri);
        fio.args(["--name=space", "--refill_buffers", "--randrepeat=0"]);
        fio.arg(format!("--size={}", self.live_bytes));
        fio.args(arguments);
        fio::jobs(&mut fio, LIMIT)?;
        Ok(())
    }

    /// Writes the whole image in order; what was sent, in percent of it, rounded up.
    fn fill(&mut self, server: &mut ObjectServer) -> Result<u64> {
        let before = server.requests()?;
        self.fio(&["--rw=write", "--bs=1M", "--iodepth=4"])?;
        self.daemon.checkpoint(IMAGE)?;
        self.rest()?;
        let sent = server.requests()?.since(before).received_bytes;
        Ok((sent * 100).div_ceil(self.live_bytes))
    }

    /// Overwrites the image at uniform random; what was sent, in percent of what was written.
    fn overwrite(&mut self, server: &mut ObjectServer, options: &Options) -> Result<u64> {
        let before = server.requests()?;
        for round in 1..=options.rounds {
            self.round(round, Duration::from_secs(options.collect_every))?;
            let sent = server.requests()?.since(before).received_bytes;
            let put = sent * 100 / (round * self.live_bytes);
            let bucket = self.percent()?;
            println!("round {round:>3}: bucket {bucket} %, PUT {put} %");
        }
        self.daemon.checkpoint(IMAGE)?;
        self.rest()?;
        let sent = server.requests()?.since(before).received_bytes;
        Ok((sent * 100).div_ceil(options.rounds.max(1) * self.live_bytes))
    }

    fn round(&mut self, round: u64, every: Duration) -> Result<()> {
        let done = AtomicBool::new(false);
        let (bucket, live_bytes) = (self.bucket.clone(), self.live_bytes);
        let collect = Collector {
            program: self.collector.clone(),
            setup: self.daemon.setup().clone(),
        };
        let peak = std::thread::scope(|scope| {
            let watch = scope.spawn(|| -> Result<u64> {
                let mut peak = 0;
                while !done.load(Ordering::Relaxed) {
                    peak = peak.max(object_bytes(&bucket)? * 100 / live_bytes);
                    collect.pass()?;
                    std::thread::sleep(every);
                }
                Ok(peak)
            });
            let written = self.fio(&["--rw=randwrite", "--bs=4k", "--norandommap", "--iodepth=32"]);
            done.store(true, Ordering::Relaxed);
            let peak = watch.join().expect("the watcher returns");
            written.and(peak)
        })?;
        if round > 1 {
            self.peak_percent = self.peak_percent.max(peak);
        }
        Ok(())
    }

    /// Waits until nothing is cleaned, published or retired any more.
    fn rest(&self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let mut quiet = 0;
        while quiet < 5 {
            ensure!(Instant::now() < deadline, "cleaning does not come to rest");
            std::thread::sleep(Duration::from_millis(500));
            let status = self.daemon.status()?;
            let Some(image) = status["images"].as_array().and_then(|all| all.first()) else {
                return Ok(());
            };
            let space = &image["space"];
            let cleaning = space["cleaning_segments"].as_u64();
            let cleaning = cleaning.context("no cleaning in the status")?;
            let busy = image["publishing"] == true || cleaning > 0;
            quiet = if busy { 0 } else { quiet + 1 };
        }
        Ok(())
    }

    fn collect(&self) -> Result<()> {
        let collector = Collector {
            program: self.collector.clone(),
            setup: self.daemon.setup().clone(),
        };
        collector.pass()
    }

    fn percent(&self) -> Result<u64> {
        Ok(object_bytes(&self.bucket)? * 100 / self.live_bytes)
    }
}

struct Collector {
    program: PathBuf,
    setup: Setup,
}

impl Collector {
    fn pass(&self) -> Result<()> {
        let ObjectStore::S3 { bucket, prefix, .. } = &self.setup.store else {
            bail!("the collector is run on the S3 server");
        };
        let setup = Setup {
            binary: self.program.clone(),
            ..self.setup.clone()
        };
        let mut command = setup.command(&["--bucket", bucket, "--prefix", prefix]);
        command.args(["--threshold-inactive-days", "0"]);
        command::run(&mut command, LIMIT)?;
        Ok(())
    }
}

/// What the objects below `directory` take, by their lengths. What goes while it is looked at
/// counts for nothing.
///
/// # Errors
/// If an entry has a name that cannot be read.
pub fn object_bytes(directory: &Path) -> Result<u64> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(0);
    };
    let mut bytes = 0;
    for entry in entries.flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes += object_bytes(&entry.path())?,
            Ok(metadata) => bytes += metadata.len(),
            Err(_) => {}
        }
    }
    Ok(bytes)
}
