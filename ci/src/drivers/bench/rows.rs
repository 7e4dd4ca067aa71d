//! The rows that fio measures.
//!
//! The buffered rows are about the buffer: before each run mvps checkpoints, and what the run
//! writes, filling included, stays below one generation (256 MiB), so that no upload or spill runs
//! beside it. How mvps keeps up when there is more to write is the sustained table's matter.

use std::iter;
use std::time::Duration;

use anyhow::Result;

use super::figures::Table;
use super::setup::{IMAGE, Options};
use crate::rig::daemon::Daemon;
use crate::rig::fio::{self, Figures};

/// The part of the disk that reads and writes stay in: with [`RUN_MOST`] below one generation, and
/// small enough for a cache of 256 MiB.
pub const REGION: &str = "96m";

/// The most that a run of a buffered row writes.
const RUN_MOST: &str = "96m";

/// How often a run measures a row that takes a tenth of a second, as writing [`RUN_MOST`] does, or
/// hardly more.
pub const SHORT_ROW_TIMES: usize = 3;

/// A row: what fio does, and what is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// A server that takes part.
pub struct Contestant<'a> {
    /// Its name in tables.
    pub name: &'static str,
    /// Its disk.
    pub uri: String,
    /// mvps itself, which is checkpointed between rows.
    pub mvps: Option<&'a Daemon>,
}

impl Contestant<'_> {
    /// The state in which every run of a buffered row begins: the region's data in the buffer.
    fn prepare(&self) -> Result<()> {
        if let Some(daemon) = self.mvps {
            // Opens the image if it is closed: what is closed takes no request for a checkpoint.
            fill(&self.uri, "1m")?;
            daemon.checkpoint(IMAGE)?;
        }
        fill(&self.uri, REGION)
    }
}

/// Every row, on disks that hold data nobody checkpointed.
///
/// # Errors
/// If fio fails.
pub fn buffered(options: &Options, contestants: &[Contestant<'_>]) -> Result<Table> {
    let mut table = Table::default();
    let runtime = format!("--runtime={}", options.seconds);
    for _ in 0..options.runs {
        for row in WRITES.iter().chain(READS) {
            let mut limit = vec![format!("--size={REGION}"), runtime.clone()];
            if READS.contains(row) {
                limit.push("--time_based".to_owned());
            } else {
                limit.push(format!("--io_size={RUN_MOST}"));
            }
            let times = match row.counts {
                Throughput if !READS.contains(row) => SHORT_ROW_TIMES,
                _ => 1,
            };
            for contestant in iter::repeat_n(contestants, times).flatten() {
                contestant.prepare()?;
                note(&mut table, row, contestant, &limit)?;
            }
        }
    }
    Ok(table)
}

/// The rows that read, after one pass over the region.
///
/// # Errors
/// If fio fails.
pub fn cached(options: &Options, contestants: &[Contestant<'_>]) -> Result<Table> {
    let mut table = Table::default();
    for Contestant { uri, .. } in contestants {
        let mut pass = fio::nbd(uri);
        pass.args(["--name=warm", "--rw=read", "--bs=1m", "--iodepth=8"]);
        fio::jobs(pass.arg(format!("--size={REGION}")), SLACK)?;
    }
    let limit = [
        format!("--size={REGION}"),
        "--time_based".to_owned(),
        format!("--runtime={}", options.seconds),
    ];
    for _ in 0..options.runs {
        for row in READS {
            for contestant in contestants {
                note(&mut table, row, contestant, &limit)?;
            }
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

fn note(table: &mut Table, row: &Row, contestant: &Contestant<'_>, limit: &[String]) -> Result<()> {
    let value = measure(row, &contestant.uri, limit)?;
    eprintln!("{:<22} {:<10} {value:.1}", row.name, contestant.name);
    table.note(row.name, unit(row.counts), contestant.name, value);
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
