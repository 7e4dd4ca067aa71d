//! Random, incompressible writes at half the upload rate for minutes, checkpoints running: does
//! it stay as fast as it began, and does anybody wait?

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::figures::{Goal, Verdicts};
use super::setup::start;
use crate::rig::fio::{self, Figures};
use crate::rig::object_server::ObjectServer;
use crate::rig::server::Server;

/// The disk that is written.
const DISK_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// The stretches at both ends that are compared.
const STRETCH_MS: u64 = 30_000;

/// The last stretch against the first.
const KEEPS_UP: Goal = Goal {
    against: "first stretch",
    goal: 0.8,
    floor: 0.8,
};

/// The 99th percentile of the latency, in milliseconds.
const P99_MOST_MS: f64 = 50.0;

/// Checkpoints often enough that many run.
const FLAGS: &[&str] = &["--checkpoint-interval-ms", "10000"];

/// Writes for `duration` at half of `upload_rate` (bytes per second).
///
/// # Errors
/// If something does not run.
pub fn measure(
    duration: Duration,
    upload_rate: f64,
    binary: &Path,
    server: &ObjectServer,
    place: &Path,
    verdicts: &mut Verdicts,
) -> Result<()> {
    let mut daemon = start(binary, server, place, "sustained", FLAGS)?;
    let uri = daemon.uri("sustained", DISK_BYTES)?;
    let log = place.join("sustained-log");
    let mut command = fio::nbd(&uri);
    command.args([
        "--name=sustained",
        "--rw=randwrite",
        "--bs=64k",
        "--iodepth=8",
    ]);
    command.args([
        "--refill_buffers",
        "--norandommap",
        "--size=4g",
        "--time_based",
    ]);
    command.arg(format!("--runtime={}", duration.as_secs()));
    command.arg(format!("--rate={:.0}", upload_rate / 2.0));
    command.arg(format!("--write_bw_log={}", log.display()));
    command.arg("--log_avg_msec=1000");
    let jobs = fio::jobs(&mut command, duration + Duration::from_secs(120))?;
    let figures = Figures::of(&jobs[0], "write");
    let log = fs::read_to_string(place.join("sustained-log_bw.1.log"))?;
    let samples = samples(&log)?;
    let end = samples.last().context("fio logged nothing")?.0;
    let stretch = STRETCH_MS.min(end / 2);
    let first = mean(&samples, 0, stretch);
    let last = mean(&samples, end - stretch, end);
    let (now, highest) = daemon.memory_bytes()?;
    println!(
        "\nsustained random writes, {} s, 64 KiB, qd 8",
        duration.as_secs()
    );
    println!(
        "  asked for           {:>9.1} MiB/s",
        upload_rate / 2.0 / (1024.0 * 1024.0)
    );
    println!(
        "  first {:>3} s         {:>9.1} MiB/s",
        stretch / 1000,
        first / 1024.0
    );
    println!(
        "  last  {:>3} s         {:>9.1} MiB/s",
        stretch / 1000,
        last / 1024.0
    );
    let mark = verdicts.ratio("sustained writes: last stretch", last / first, KEEPS_UP);
    println!(
        "  last / first        {:>9.2} (goal 0.8){mark}",
        last / first
    );
    let p99_ms = figures.p99_ms;
    let mark = verdicts.at_most("sustained writes: p99", p99_ms, "ms", P99_MOST_MS);
    println!("  p99 latency         {p99_ms:>9.1} ms (goal 50){mark}");
    println!("  longest latency     {:>9.1} ms", figures.longest_ms);
    println!(
        "  RSS                 {:>9} MiB (highest {})",
        now >> 20,
        highest >> 20
    );
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
