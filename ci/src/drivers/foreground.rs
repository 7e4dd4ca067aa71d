//! `cargo ci foreground`: the latency of random 4 KiB writes to an image full of garbage, with
//! cleaning and without it alternately, in one run.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::rig::daemon::Setup;
use crate::rig::fio::{self, Figures, median};
use crate::rig::machine;
use crate::rig::object_server::ObjectServer;
use crate::rig::report::Report;
use crate::rig::token::Claims;
use crate::rig::workspace::Binary;

/// The image. Its name and the prefix are short: see [`ObjectServer::store`].
const IMAGE: &str = "f";

/// How many times as long the slowest hundredth of the writes may take while cleaning runs.
const FACTOR_MOST: f64 = 3.0;

/// How long fio may take.
const LIMIT: Duration = Duration::from_secs(900);

/// The size of the image, and how often and how long it is measured.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Size of the image in MiB.
    #[arg(long, default_value_t = 1024)]
    pub image_size: u64,
    /// Seconds of one round.
    #[arg(long, default_value_t = 30)]
    pub seconds: u64,
    /// Rounds with cleaning, and as many without.
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    /// Writes in flight.
    #[arg(long, default_value_t = 8)]
    pub depth: u32,
}

/// Measures the writes with cleaning and without it.
///
/// # Errors
/// If the limit is not kept, or nothing was cleaned while it was measured.
pub fn run(binary: &Binary, options: &Options) -> Result<()> {
    machine::ensure(machine::NBD_TOOLS)?;
    let binary = binary.path()?;
    let directory = TempDir::with_prefix("mvps-foreground")?;
    let server = ObjectServer::start(&directory.path().join("server"))?;
    let setup = Setup::new(&binary, server.store("fg/"), directory.path())?;
    let mut report = Report::default();
    report.check("foreground", "p99 of 4 KiB writes", || {
        measure(setup, options)
    });
    report.finish("cargo ci foreground")
}

fn measure(mut setup: Setup, options: &Options) -> Result<String> {
    // Every page at random, so that there is something to clean from the beginning.
    round(&mut setup, options, false, &["--rw=write", "--bs=1M"])?;
    round(&mut setup, options, false, &["--rw=randwrite", "--bs=4k"])?;
    let seconds = format!("--runtime={}", options.seconds);
    let timed = ["--time_based", &seconds, "--ramp_time=2"];
    let writes = ["--rw=randwrite", "--bs=4k", "--norandommap"];
    let arguments = [&writes[..], &timed].concat();
    let (mut with, mut without, mut cleaned) = (Vec::new(), Vec::new(), 0);
    let mut rates = Vec::new();
    for _ in 0..options.rounds {
        let (figures, _) = round(&mut setup, options, false, &arguments)?;
        without.push(figures.p99_ms);
        let (figures, cleaned_bytes) = round(&mut setup, options, true, &arguments)?;
        with.push(figures.p99_ms);
        ensure!(
            cleaned_bytes > 0,
            "nothing was cleaned while it was measured"
        );
        cleaned += cleaned_bytes;
        rates.push(figures.bytes_per_second / 1e6);
    }
    let factor = median(&with) / median(&without);
    let said = format!(
        "{:.2} ms with cleaning {with:.2?}, {:.2} ms without {without:.2?}: {factor:.2} times (at \
         most {FACTOR_MOST}); {} MiB cleaned at {:.0} MB/s of writes",
        median(&with),
        median(&without),
        cleaned >> 20,
        median(&rates)
    );
    ensure!(factor <= FACTOR_MOST, "{said}");
    Ok(said)
}

/// Runs fio on a daemon of its own; returns the figures of the writes, and the bytes cleaned
/// meanwhile.
fn round(
    setup: &mut Setup,
    options: &Options,
    cleaning: bool,
    arguments: &[&str],
) -> Result<(Figures, u64)> {
    setup.flags = vec!["--cleaning".into(), cleaning.to_string()];
    let daemon = setup.start()?;
    let uri = daemon.uri_for(&Claims::image(IMAGE, options.image_size << 20));
    let mut fio = fio::nbd(&uri);
    fio.args(["--name=foreground", "--refill_buffers", "--randrepeat=0"]);
    fio.arg(format!("--size={}M", options.image_size));
    fio.arg(format!("--iodepth={}", options.depth));
    fio.args(arguments);
    let jobs = fio::jobs(&mut fio, LIMIT)?;
    let status = daemon.status()?;
    let image = status["images"].as_array().and_then(|all| all.first());
    let image = image.context("no image in the status")?;
    let cleaned = image["space"]["cleaned_bytes"].as_u64();
    let cleaned = cleaned.context("cleaned bytes in the status")?;
    daemon.stop()?;
    let job = jobs.first().context("a job of fio")?;
    Ok((Figures::of(job, "write"), cleaned))
}
