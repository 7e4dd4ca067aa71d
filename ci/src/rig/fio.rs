//! fio over NBD: starting it, and what its JSON says.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::rig::command::run;
use crate::rig::machine::system;

/// A fio command over NBD with JSON output.
pub fn nbd(uri: &str) -> Command {
    let mut fio = system("fio");
    fio.args(["--output-format=json", "--ioengine=nbd", "--thread"]);
    // No file of its state in the working directory.
    fio.arg("--verify_state_save=0");
    fio.arg(format!("--uri={uri}"));
    fio
}

/// The jobs of a fio run.
///
/// # Errors
/// If fio fails or one of its jobs reports an error.
pub fn jobs(fio: &mut Command, limit: Duration) -> Result<Vec<Value>> {
    let output = run(fio, limit)?.stdout;
    let start = output.find('{').context("no JSON from fio")?;
    let json: Value = serde_json::from_str(&output[start..]).context("JSON of fio")?;
    let jobs = json["jobs"].as_array().context("jobs of fio")?.clone();
    for job in &jobs {
        ensure!(
            job["error"] == 0,
            "job {}: error {}",
            job["jobname"],
            job["error"]
        );
    }
    Ok(jobs)
}

/// One direction of one job.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// All bytes.
    pub bytes: u64,
    /// Bytes per second.
    pub bytes_per_second: f64,
    /// Requests per second.
    pub requests_per_second: f64,
    /// The 99th percentile of the completion latency.
    pub p99_ms: f64,
    /// The longest completion latency.
    pub longest_ms: f64,
}

impl Figures {
    /// What `job` says of `direction` (`read` or `write`).
    pub fn of(job: &Value, direction: &str) -> Self {
        let side = &job[direction];
        let number = |value: &Value| value.as_f64().unwrap_or(0.0);
        let latency = &side["clat_ns"];
        Self {
            bytes: side["io_bytes"].as_u64().unwrap_or(0),
            bytes_per_second: number(&side["bw_bytes"]),
            requests_per_second: number(&side["iops"]),
            p99_ms: number(&latency["percentile"]["99.000000"]) / 1e6,
            longest_ms: number(&latency["max"]) / 1e6,
        }
    }
}

/// The 99th percentile of what `job`'s flushes took; `None` if it sent none.
pub fn flush_p99_ms(job: &Value) -> Option<f64> {
    let flushes = &job["sync"]["lat_ns"];
    let p99_ns = flushes["percentile"]["99.000000"].as_f64()?;
    Some(p99_ns / 1e6).filter(|_| flushes["N"] != 0)
}

/// The middle one of `values`; the mean of the middle two of an even number.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "exact halves")]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
