//! Random, incompressible writes at half the upload rate for minutes, checkpoints running: does
//! it stay as fast as it began, and does anybody wait?

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::contestant::IMAGE;
use super::goals;
use super::results::Results;
use super::setup::Bench;
use crate::rig::daemon::Setup;
use crate::rig::fio::{self, Figures};
use crate::rig::object_server::ObjectServer;
use crate::rig::process;
use crate::rig::token::Claims;

/// The names of its figures begin with this.
pub const NAME: &str = "sustained";

/// The stretches at both ends that are compared.
const STRETCH_MS: u64 = 30_000;

/// How long fio may take beyond its duration.
const SLACK: Duration = Duration::from_secs(120);

/// Writes at half of `upload_rate` (bytes per second).
///
/// # Errors
/// If something does not run.
pub fn measure(bench: &Bench<'_>, upload_rate: f64, results: &mut Results) -> Result<()> {
    let directory = TempDir::with_prefix_in("sustained-", bench.place)?;
    let place = directory.path();
    let server = ObjectServer::start(&place.join("objects"))?;
    let store = server.store(&format!("{IMAGE}/"));
    let daemon = Setup::new(&bench.binaries.mvps, store, &place.join("mvps"))?.start()?;
    let uri = daemon.uri_for(&Claims::image(IMAGE, bench.options.region));
    let duration = Duration::from_secs(bench.options.sustained_seconds);
    let log = place.join("log");
    let mut command = fio::nbd(&uri);
    command.args(["--name=sustained", "--rw=randwrite", "--bs=64k"]);
    command.args(["--iodepth=8", "--refill_buffers", "--norandommap"]);
    command.arg(format!("--size={}", bench.options.region));
    command.arg("--time_based");
    command.arg(format!("--runtime={}", duration.as_secs()));
    command.arg(format!("--rate={:.0}", upload_rate / 2.0));
    command.arg(format!("--write_bw_log={}", log.display()));
    command.arg("--log_avg_msec=1000");
    let jobs = fio::jobs(&mut command, duration + SLACK)?;
    let figures = Figures::of(jobs.first().context("a job of fio")?, "write");
    let log = fs::read_to_string(place.join("log_bw.1.log"))?;
    let samples = samples(&log)?;
    let end = samples.last().context("fio logged nothing")?.0;
    let stretch = STRETCH_MS.min(end / 2);
    let first = mean(&samples, 0, stretch);
    let last = mean(&samples, end - stretch, end);
    let highest = process::memory_bytes(daemon.process())?.1;
    results.title(&format!(
        "{NAME} random writes at half the upload rate, {} s, 64 KiB, qd 8",
        duration.as_secs()
    ));
    let mut fact = |name: &str, value, unit, goal| {
        results.fact(&format!("{NAME}: {name}"), value, unit, goal);
    };
    let mib = f64::from(1 << 20);
    fact("asked for", upload_rate / 2.0 / mib, "MiB/s", None);
    let seconds = stretch / 1000;
    fact(&format!("first {seconds} s"), first / 1024.0, "MiB/s", None);
    fact(&format!("last {seconds} s"), last / 1024.0, "MiB/s", None);
    fact(
        "last / first",
        last / first,
        "",
        Some(goals::SUSTAINED_RATIO),
    );
    fact("p99", figures.p99_ms, "ms", Some(goals::SUSTAINED_P99_MS));
    fact("longest", figures.longest_ms, "ms", None);
    fact("RSS, highest", highest as f64 / mib, "MiB", None);
    daemon.stop()?;
    Ok(())
}

/// Milliseconds and KiB/s of each line of fio's log.
fn samples(log: &str) -> Result<Vec<(u64, f64)>> {
    let mut samples = Vec::new();
    for line in log.lines() {
        let mut fields = line.split(',').map(str::trim);
        let at = fields.next().context("a time")?.parse()?;
        samples.push((at, fields.next().context("a rate")?.parse()?));
    }
    ensure!(!samples.is_empty(), "fio logged nothing");
    Ok(samples)
}

fn mean(samples: &[(u64, f64)], from: u64, to: u64) -> f64 {
    let within = samples.iter().filter(|(at, _)| (from..=to).contains(at));
    let rates: Vec<f64> = within.map(|(_, rate)| *rate).collect();
    rates.iter().sum::<f64>() / rates.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "small whole numbers")]
    fn the_log_is_read() {
        let samples = samples("1000, 100, 1, 0, 0\n2000, 300, 1, 0, 0\n").unwrap();
        assert_eq!(samples, vec![(1000, 100.0), (2000, 300.0)]);
        assert_eq!(mean(&samples, 0, 1000), 100.0);
        assert_eq!(mean(&samples, 0, 2000), 200.0);
    }
}
