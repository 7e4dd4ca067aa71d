//! Checkpoints as uploads: bytes and requests for each byte written, and the rate beside a plain
//! multipart PUT of as many bytes.
//!
//! What is uploaded is one generation of a quarter of the region, by a flag: nothing may be
//! uploaded before the clock runs. How uploads keep up with writes is the other tables' matter.

use std::time::Instant;

use anyhow::{Result, ensure};
use tempfile::TempDir;

use super::contestant::{IMAGE, fill};
use super::figures::{Run, Unit};
use super::goals;
use super::plain_sdk;
use super::results::Results;
use super::setup::Bench;
use super::table::{Side, Table};
use crate::rig::daemon::Setup;
use crate::rig::fio::median;
use crate::rig::object_server::ObjectServer;
use crate::rig::token::Claims;

/// The name of its row.
pub const NAME: &str = "upload";

/// Bytes in a MiB and in a GiB, for figures.
const MIB: f64 = 1024.0 * 1024.0;
const GIB: f64 = 1024.0 * MIB;

/// Uploads as many bytes through a checkpoint and through the plain SDK; returns the checkpoint's
/// rate in bytes per second.
///
/// # Errors
/// If either fails.
pub fn measure(bench: &Bench<'_>, results: &mut Results) -> Result<f64> {
    let directory = TempDir::with_prefix_in("upload-", bench.place)?;
    let mut server = ObjectServer::start(&directory.path().join("objects"))?;
    let bytes = bench.options.quarter();
    let store = server.store(&format!("{IMAGE}/"));
    let mut setup = Setup::new(&bench.binaries.mvps, store, &directory.path().join("mvps"))?;
    let generation = (2 * bytes).to_string();
    let flags = [
        "--checkpoint-bytes",
        &generation,
        "--checkpoint-interval-ms",
        "86400000",
    ];
    setup.flags = flags.map(str::to_owned).to_vec();
    let daemon = setup.start()?;
    let uri = daemon.uri_for(&Claims::image(IMAGE, bytes));
    let plain = ["--put-bytes".to_owned(), bytes.to_string()];
    let title = format!(
        "checkpoint of one generation of {} MiB of noise",
        bytes >> 20
    );
    let mut table = Table::new(title, plain_sdk::NAME);
    table.row(NAME, Unit::Mebibytes, goals::PLAIN, false);
    let (mut rates, mut sent, mut requests) = (Vec::new(), 0, 0);
    for _ in 0..bench.options.rounds {
        fill(&uri, bytes)?;
        let before = server.requests()?;
        let started = Instant::now();
        daemon.checkpoint(IMAGE)?;
        let rate = bytes as f64 / started.elapsed().as_secs_f64();
        let asked = server.requests()?.since(before);
        sent += asked.received_bytes;
        requests += asked.total;
        let theirs = plain_sdk::measure(server.endpoint(), "plain/upload", &plain)?;
        table.note(NAME, Side::Mvps, Run::of_rate(rate / MIB));
        table.note(NAME, Side::Other, Run::of_rate(theirs / MIB));
        rates.push(rate);
    }
    daemon.stop()?;
    results.table(&table);
    let written = f64::from(bench.options.rounds) * bytes as f64;
    results.fact(
        "upload: PUT bytes for each byte",
        sent as f64 / written,
        "",
        None,
    );
    let per_gib = requests as f64 / (written / GIB);
    results.fact("upload: requests for each GiB", per_gib, "", None);
    let rate = median(&rates);
    ensure!(rate > 0.0, "a checkpoint has a rate");
    Ok(rate)
}
