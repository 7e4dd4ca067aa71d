//! Reads that nothing local can answer: a daemon with an empty buffer store and empty caches,
//! beside ranged GETs of the plain SDK.
//!
//! Random rows end after a number of reads and not after a time: a read is cold only while few of
//! the region's frames have been fetched.

use std::path::Path;

use anyhow::Result;
use tempfile::TempDir;

use super::contestant::{IMAGE, fill, run};
use super::figures::{Run, Unit};
use super::goals;
use super::plain_sdk;
use super::results::Results;
use super::rows::{READ_1, READ_32, READ_SEQUENTIAL, Row};
use super::setup::Bench;
use super::table::{Side, Table};
use crate::rig::daemon::{Daemon, Setup};
use crate::rig::object_server::ObjectServer;
use crate::rig::token::Claims;

/// The names of its rows begin with this.
const NAME: &str = "cold";

/// The uncompressed bytes of a frame, which a cold random read of 4 KiB fetches.
const FRAME_BYTES: u64 = 64 * 1024;

/// What a sequential read asks for, and what the plain client gets for it.
const SEQUENTIAL_BYTES: u64 = 1024 * 1024;

/// The plain client's object.
const PLAIN_KEY: &str = "plain/cold";

/// What chooses the places; the round is added.
const SEED: u32 = 4000;

/// A row, and what the plain client does in its place.
struct Cold {
    row: Row,
    /// Random reads; `None` for one pass over the region.
    reads: Option<u64>,
    in_flight: u32,
}

const COLD: [Cold; 3] = [
    Cold {
        row: READ_1,
        reads: Some(1500),
        in_flight: 1,
    },
    Cold {
        row: READ_32,
        reads: Some(4000),
        in_flight: 32,
    },
    Cold {
        row: READ_SEQUENTIAL,
        reads: None,
        in_flight: 8,
    },
];

impl Cold {
    fn name(&self) -> String {
        format!("{NAME}/{}", self.row.name)
    }

    fn fio(&self, region: u64) -> Vec<String> {
        let size = format!("--size={region}");
        let number = self.reads.map(|reads| format!("--number_ios={reads}"));
        [size].into_iter().chain(number).collect()
    }

    /// Bytes of a GET.
    fn range_bytes(&self) -> u64 {
        match self.reads {
            Some(_) => FRAME_BYTES,
            None => SEQUENTIAL_BYTES,
        }
    }

    fn plain(&self, region: u64) -> Vec<String> {
        let gets = self.reads.unwrap_or(region / SEQUENTIAL_BYTES);
        let range = self.range_bytes();
        let mut arguments = format!(
            "--gets {gets} --range-bytes {range} --in-flight {}",
            self.in_flight
        );
        if self.reads.is_none() {
            arguments.push_str(" --sequential");
        }
        arguments.split(' ').map(str::to_owned).collect()
    }

    /// The plain client's rate in the row's unit: one GET for each read.
    fn plain_rate(&self, bytes_per_second: f64) -> f64 {
        match self.row.unit {
            Unit::Requests => bytes_per_second / self.range_bytes() as f64,
            Unit::Mebibytes => bytes_per_second / (1024.0 * 1024.0),
        }
    }
}

/// Fills a disk, closes it clean, and reads it through daemons that know nothing of it.
///
/// # Errors
/// If something does not run.
pub fn measure(bench: &Bench<'_>, results: &mut Results) -> Result<()> {
    let wanted = |cold: &&Cold| bench.options.wants(&cold.name());
    let rows: Vec<&Cold> = COLD.iter().filter(wanted).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let region = bench.options.region;
    let directory = TempDir::with_prefix_in("cold-", bench.place)?;
    let place = directory.path();
    let server = ObjectServer::start(&place.join("objects"))?;
    let claims = Claims::image(IMAGE, region);
    let daemon = start(bench, &server, &place.join("writer"))?;
    fill(&daemon.uri_for(&claims), region)?;
    daemon.stop()?;
    let object = ["--put-bytes".to_owned(), region.to_string()];
    plain_sdk::measure(server.endpoint(), PLAIN_KEY, &object)?;
    let title = format!(
        "cold reads from the S3 server, region of {} MiB; the plain SDK gets the same frames",
        region >> 20
    );
    let mut table = Table::new(title, plain_sdk::NAME);
    for cold in &rows {
        table.row(&cold.name(), cold.row.unit, goals::PLAIN, false);
    }
    for round in 0..bench.options.rounds {
        for cold in &rows {
            let reader = TempDir::with_prefix_in("reader-", place)?;
            let daemon = start(bench, &server, reader.path())?;
            let uri = daemon.uri_for(&claims);
            let ours = run(&uri, &cold.row, SEED + round, &cold.fio(region))?;
            daemon.stop()?;
            let plain = plain_sdk::measure(server.endpoint(), PLAIN_KEY, &cold.plain(region))?;
            let theirs = Run::of_rate(cold.plain_rate(plain));
            table.note(&cold.name(), Side::Mvps, ours);
            table.note(&cold.name(), Side::Other, theirs);
        }
    }
    results.table(&table);
    Ok(())
}

fn start(bench: &Bench<'_>, server: &ObjectServer, place: &Path) -> Result<Daemon> {
    let store = server.store(&format!("{IMAGE}/"));
    Setup::new(&bench.binaries.mvps, store, place)?.start()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_client_does_the_same_work() {
        let check = |cold: &Cold, fio: &str, plain: &str, rate| {
            assert_eq!(cold.fio(4 << 20).join(" "), fio);
            assert_eq!(cold.plain(4 << 20).join(" "), plain);
            assert_eq!(cold.plain_rate(f64::from(1 << 20)), rate);
        };
        check(
            &COLD[0],
            "--size=4194304 --number_ios=1500",
            "--gets 1500 --range-bytes 65536 --in-flight 1",
            16.0,
        );
        check(
            &COLD[2],
            "--size=4194304",
            "--gets 4 --range-bytes 1048576 --in-flight 8 --sequential",
            1.0,
        );
    }
}
