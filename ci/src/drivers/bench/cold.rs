//! Reads that nothing local can answer: a daemon with an empty buffer store and an empty cache,
//! beside ranged GETs of the plain SDK.

use std::path::Path;

use anyhow::Result;

use super::figures::{PLAIN, Table, Verdicts};
use super::plain_sdk;
use super::rows::{self, READS, Row};
use super::setup::{NO_TIMER, Options, start};
use crate::rig::object_server::ObjectServer;
use crate::rig::server::Server;

/// The disk that is read: so large that random reads rarely meet a frame twice.
const DISK_BYTES: u64 = 1024 * 1024 * 1024;

/// The uncompressed bytes of a frame, which a cold random read of 4 KiB fetches.
const FRAME_BYTES: u64 = 64 * 1024;

/// How a cold row is bounded, and what the plain client does in its place.
struct Cold {
    row: &'static Row,
    fio: &'static [&'static str],
    plain: &'static [&'static str],
    /// Bytes of the row for one byte that the plain client reads.
    share: f64,
    /// How often it is measured in each run: more where it takes a second or two.
    times: usize,
}

const FRAME_SHARE: f64 = 4096.0 / FRAME_BYTES as f64;

const COLD: [Cold; 3] = [
    Cold {
        row: &READS[0],
        fio: &["--size=1g", "--number_ios=1500"],
        plain: &[
            "--gets",
            "1500",
            "--range-bytes",
            "65536",
            "--in-flight",
            "1",
        ],
        share: FRAME_SHARE,
        times: 1,
    },
    Cold {
        row: &READS[1],
        fio: &["--size=1g", "--number_ios=4000"],
        plain: &[
            "--gets",
            "4000",
            "--range-bytes",
            "65536",
            "--in-flight",
            "32",
        ],
        share: FRAME_SHARE,
        times: 1,
    },
    Cold {
        row: &READS[2],
        fio: &["--size=1g"],
        plain: &[
            "--gets",
            "1024",
            "--range-bytes",
            "1048576",
            "--in-flight",
            "8",
            "--sequential",
        ],
        share: 1.0,
        times: rows::SHORT_ROW_TIMES,
    },
];

/// Fills a disk, closes it clean, and reads it through fresh daemons.
///
/// # Errors
/// If something does not run.
pub fn measure(
    options: &Options,
    binary: &Path,
    server: &ObjectServer,
    place: &Path,
    verdicts: &mut Verdicts,
) -> Result<()> {
    let mut daemon = start(binary, server, place, "cold-writer", NO_TIMER)?;
    rows::fill(&daemon.uri("cold", DISK_BYTES)?, "1g")?;
    daemon.stop()?;
    let object = ["--put-bytes".to_owned(), DISK_BYTES.to_string()];
    plain_sdk::measure(server.endpoint(), "plain/cold", &object)?;
    let mut table = Table::default();
    for run in 0..options.runs {
        let times = |cold: &'static Cold| (0..cold.times).map(move |time| (cold, time));
        for (cold, time) in COLD.iter().flat_map(times) {
            let name = format!("cold-{}-{run}-{time}", cold.row.name);
            let mut daemon = start(binary, server, place, &name, NO_TIMER)?;
            let uri = daemon.uri("cold", DISK_BYTES)?;
            let bounds: Vec<String> = cold.fio.iter().map(ToString::to_string).collect();
            let ours = rows::measure(cold.row, &uri, &bounds)?;
            daemon.stop()?;
            let plain: Vec<String> = cold.plain.iter().map(ToString::to_string).collect();
            let plain = plain_sdk::measure(server.endpoint(), "plain/cold", &plain)?;
            let plain = rows::figure(cold.row.counts, plain * cold.share);
            let unit = rows::unit(cold.row.counts);
            table.note(cold.row.name, unit, "mvps", ours);
            table.note(cold.row.name, unit, "plain SDK", plain);
        }
    }
    println!("\ncold rows read from the S3 server; the plain SDK reads the same frames by range");
    table.print("cold", Some(PLAIN), verdicts);
    Ok(())
}
