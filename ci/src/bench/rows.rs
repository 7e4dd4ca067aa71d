//! The fio rows.

use std::time::Duration;

use anyhow::Result;

use super::Options;
use super::figures::Table;
use crate::fio::{self, Figures};

/// The part of the disk that reads and writes stay in: small enough for a cache of 256 MiB.
pub const REGION: &str = "192m";

/// A row: what fio does, and what is counted.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What it asks of fio.
    pub arguments: &'static [&'static str],
    /// What counts.
    pub counts: Counts,
}

/// The figure of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// Operations per second, in thousands.
    Operations4k,
    /// MiB per second.
    Throughput,
}

const fn row(name: &'static str, arguments: &'static [&'static str], counts: Counts) -> Row {
    Row {
        name,
        arguments,
        counts,
    }
}

use Counts::{Operations4k, Throughput};

/// Rows that write, or write and read.
const WRITES: &[Row] = &[
    row(
        "randwrite4k-qd1",
        &["--rw=randwrite", "--bs=4k", "--iodepth=1"],
        Operations4k,
    ),
    row(
        "randwrite4k-qd32",
        &["--rw=randwrite", "--bs=4k", "--iodepth=32"],
        Operations4k,
    ),
    row(
        "randwrite4k-qd1-fsync",
        &["--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"],
        Operations4k,
    ),
    row(
        "seqwrite1m-qd8",
        &["--rw=write", "--bs=1m", "--iodepth=8"],
        Throughput,
    ),
    row(
        "randrw4k-qd32",
        &["--rw=randrw", "--bs=4k", "--iodepth=32"],
        Operations4k,
    ),
];

/// Rows that read.
pub const READS: &[Row] = &[
    row(
        "randread4k-qd1",
        &["--rw=randread", "--bs=4k", "--iodepth=1"],
        Operations4k,
    ),
    row(
        "randread4k-qd32",
        &["--rw=randread", "--bs=4k", "--iodepth=32"],
        Operations4k,
    ),
    row(
        "seqread1m-qd8",
        &["--rw=read", "--bs=1m", "--iodepth=8"],
        Throughput,
    ),
];

/// How long a run may take beyond its own duration.
const SLACK: Duration = Duration::from_secs(120);

/// Every row, on disks that hold data nobody checkpointed.
///
/// # Errors
/// If fio fails.
pub fn buffered(options: &Options, uris: &[(String, String)]) -> Result<Table> {
    let mut table = Table::default();
    for (_, uri) in uris {
        fill(uri, REGION)?;
    }
    for _ in 0..options.runs {
        for row in WRITES.iter().chain(READS) {
            measure_all(&mut table, options, row, uris)?;
        }
    }
    Ok(table)
}

/// The rows that read, after one pass over the region.
///
/// # Errors
/// If fio fails.
pub fn cached(options: &Options, uris: &[(String, String)]) -> Result<Table> {
    let mut table = Table::default();
    for (_, uri) in uris {
        let mut pass = fio::nbd(uri);
        pass.args(["--name=warm", "--rw=read", "--bs=1m", "--iodepth=8"]);
        fio::jobs(pass.arg(format!("--size={REGION}")), SLACK)?;
    }
    for _ in 0..options.runs {
        for row in READS {
            measure_all(&mut table, options, row, uris)?;
        }
    }
    Ok(table)
}

/// Writes noise over the first `size` of a disk.
///
/// # Errors
/// If fio fails.
pub fn fill(uri: &str, size: &str) -> Result<()> {
    let mut fill = fio::nbd(uri);
    fill.args([
        "--name=fill",
        "--rw=write",
        "--bs=1m",
        "--iodepth=8",
        "--refill_buffers",
    ]);
    fio::jobs(
        fill.args([&format!("--size={size}"), "--end_fsync=1"]),
        SLACK,
    )?;
    Ok(())
}

fn measure_all(
    table: &mut Table,
    options: &Options,
    row: &Row,
    uris: &[(String, String)],
) -> Result<()> {
    for (server, uri) in uris {
        let limit = [
            format!("--size={REGION}"),
            "--time_based".to_owned(),
            format!("--runtime={}", options.seconds),
        ];
        let value = measure(row, uri, &limit)?;
        eprintln!("{:<22} {server:<10} {value:.1}", row.name);
        table.note(row.name, unit(row.counts), server, value);
    }
    Ok(())
}

/// What a row's figure is in.
pub fn unit(counts: Counts) -> &'static str {
    match counts {
        Operations4k => "kIOPS",
        Throughput => "MiB/s",
    }
}

/// One run of `row`.
///
/// # Errors
/// If fio fails.
pub fn measure(row: &Row, uri: &str, limit: &[String]) -> Result<f64> {
    let mut command = fio::nbd(uri);
    command.arg(format!("--name={}", row.name));
    command.args(row.arguments).args(limit);
    let jobs = fio::jobs(&mut command, SLACK)?;
    let side = |direction| Figures::of(&jobs[0], direction).bytes_per_second;
    Ok(figure(row.counts, side("read") + side("write")))
}

/// A rate in the unit of a row.
pub fn figure(counts: Counts, bytes_per_second: f64) -> f64 {
    match counts {
        Operations4k => bytes_per_second / 4096.0 / 1000.0,
        Throughput => bytes_per_second / (1024.0 * 1024.0),
    }
}
