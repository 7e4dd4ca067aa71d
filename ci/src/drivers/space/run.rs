//! The run: fio fills and overwrites the image while the collector passes, and the bucket is
//! measured.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::rig::command;
use crate::rig::daemon::{Daemon, Setup};
use crate::rig::fio;
use crate::rig::object_server::{ObjectServer, ObjectStore, object_bytes};
use crate::rig::token::Claims;

/// The image. Its name and the prefix are short: see [`ObjectServer::store`].
pub const IMAGE: &str = "s";

/// How long one round of fio, and the rest that cleaning takes at the end, may last.
pub const LIMIT: Duration = Duration::from_secs(3600);

/// The bucket's bytes beside the live ones, in percent: at the end, and at any time after the
/// first round.
const END_PERCENT_MOST: u64 = 160;
const PEAK_PERCENT_MOST: u64 = 220;

/// Bytes sent beside bytes written, in percent: overwrites, and a fresh image in order.
const PUT_PERCENT_MOST: u64 = 180;
const FRESH_PERCENT_MOST: u64 = 102;

/// The size of the image, and how often it is overwritten and collected.
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
    #[arg(long, default_value_t = 5.0)]
    pub collect_every: f64,
    /// Bytes of a checkpoint, such as 64MiB: with a sixteenth of the image, a small one behaves
    /// like the large one.
    #[arg(long)]
    pub checkpoint_bytes: Option<String>,
    /// Run this collector instead of building one.
    #[arg(long)]
    pub mvps_gc: Option<PathBuf>,
}

/// One run: the daemon, what it fills, and what was seen.
pub struct Run {
    /// Where the objects are, as files.
    pub bucket: PathBuf,
    /// The size of the image, all of which is alive.
    pub live_bytes: u64,
    /// The collector that runs beside the daemon.
    pub collector: PathBuf,
    /// The daemon.
    pub daemon: Daemon,
    /// The most that the bucket took after the first round, in percent of the live bytes.
    pub peak_percent: u64,
}

impl Run {
    /// Runs fio. Every 4 KiB that it writes say where they belong, with a checksum.
    ///
    /// # Errors
    /// If fio fails, or finds something else than it wrote.
    pub fn fio(&self, arguments: &[&str]) -> Result<()> {
        let uri = self.daemon.uri_for(&Claims::image(IMAGE, self.live_bytes));
        let mut fio = fio::nbd(&uri);
        fio.args(["--name=space", "--verify=crc32c", "--verify_interval=4096"]);
        fio.arg("--verify_fatal=1");
        fio.arg(format!("--size={}", self.live_bytes));
        fio.args(arguments);
        fio::jobs(&mut fio, LIMIT)?;
        Ok(())
    }

    /// A fresh image, written in order.
    ///
    /// # Errors
    /// If more is sent than the limit.
    pub fn fresh(&mut self, server: &mut ObjectServer) -> Result<String> {
        let fresh = self.fill(server)?;
        let said = format!("PUT {fresh} % (at most {FRESH_PERCENT_MOST})");
        ensure!(fresh <= FRESH_PERCENT_MOST, "{said}");
        Ok(said)
    }

    /// Random overwrites, with the collector beside them.
    ///
    /// # Errors
    /// If the bucket holds, or the daemon sends, more than the limits.
    pub fn overwritten(&mut self, server: &mut ObjectServer, options: &Options) -> Result<String> {
        let put = self.overwrite(server, options)?;
        self.rest()?;
        self.collect()?;
        let (end, peak) = (self.percent()?, self.peak_percent);
        let said = format!(
            "bucket {end} % of the live bytes at the end (at most {END_PERCENT_MOST}), at most \
             {peak} % after round 1 ({PEAK_PERCENT_MOST}); PUT {put} % ({PUT_PERCENT_MOST})"
        );
        let is_good =
            end <= END_PERCENT_MOST && peak <= PEAK_PERCENT_MOST && put <= PUT_PERCENT_MOST;
        ensure!(is_good, "{said}");
        Ok(said)
    }

    /// Writes the whole image in order; returns what was sent, in percent of it, rounded up.
    fn fill(&mut self, server: &mut ObjectServer) -> Result<u64> {
        let before = server.requests()?;
        self.fio(&["--rw=write", "--bs=1M", "--iodepth=4", "--do_verify=0"])?;
        self.daemon.checkpoint(IMAGE)?;
        self.rest()?;
        let sent = server.requests()?.since(before).received_bytes;
        Ok((sent * 100).div_ceil(self.live_bytes))
    }

    /// Overwrites the image at uniform random; returns what was sent, in percent of what was
    /// written.
    fn overwrite(&mut self, server: &mut ObjectServer, options: &Options) -> Result<u64> {
        let before = server.requests()?;
        for round in 1..=options.rounds {
            self.round(round, Duration::try_from_secs_f64(options.collect_every)?)?;
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
            let words = ["--rw=randwrite", "--bs=4k", "--norandommap", "--iodepth=32"];
            let own = ["--randrepeat=0", "--do_verify=0"];
            let written = self.fio(&[&words[..], &own].concat());
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
    ///
    /// # Errors
    /// If that does not happen in time.
    pub fn rest(&self) -> Result<()> {
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

    /// One pass of the collector.
    ///
    /// # Errors
    /// If it fails.
    pub fn collect(&self) -> Result<()> {
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
