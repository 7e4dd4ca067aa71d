//! Checkpoints as uploads: bytes and requests per byte written, and the rate beside a plain
//! multipart PUT of the same bytes.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::figures::{PLAIN, Verdicts};
use super::plain_sdk;
use super::rows;
use super::setup::{IMAGE, NO_TIMER, start};
use crate::rig::daemon::Daemon;
use crate::rig::fio::median;
use crate::rig::object_server::ObjectServer;
use crate::rig::server::Server;

/// What the measured checkpoint holds: less than one generation, so that nothing is uploaded before
/// the clock runs.
const UPLOAD_BYTES: u64 = 192 * 1024 * 1024;

/// Bytes in a MiB and in a GiB, for figures.
const MIB: f64 = 1024.0 * 1024.0;
const GIB: f64 = 1024.0 * MIB;

/// Checkpoints what the rows left in the buffer.
///
/// # Errors
/// If the daemon refuses.
pub fn checkpoint_everything(daemon: &Daemon, server: &mut ObjectServer, uri: &str) -> Result<()> {
    rows::fill(uri, rows::REGION)?;
    let before = server.requests()?;
    let finished = daemon.checkpoint(IMAGE)?;
    let asked = server.requests()?.since(before);
    println!(
        "\ncheckpoint after the rows: {:.1} s, {} requests, {:.0} MiB sent",
        finished.elapsed.as_secs_f64(),
        asked.total,
        asked.received_bytes as f64 / MIB
    );
    Ok(())
}

/// Uploads the same bytes through a checkpoint and through the plain SDK; returns the
/// checkpoint's rate in bytes per second.
///
/// # Errors
/// If either fails.
pub fn against_plain_sdk(
    binary: &Path,
    server: &mut ObjectServer,
    place: &Path,
    verdicts: &mut Verdicts,
) -> Result<f64> {
    let mut daemon = start(binary, server, place, "upload", NO_TIMER)?;
    let uri = daemon.uri("upload", 2 * UPLOAD_BYTES)?;
    let plain = ["--put-bytes".to_owned(), UPLOAD_BYTES.to_string()];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut sent, mut requests) = (0, 0);
    for _ in 0..3 {
        rows::fill(&uri, &format!("{UPLOAD_BYTES}"))?;
        let before = server.requests()?;
        let started = Instant::now();
        daemon.checkpoint("upload")?;
        ours.push(UPLOAD_BYTES as f64 / started.elapsed().as_secs_f64());
        let asked = server.requests()?.since(before);
        sent += asked.received_bytes;
        requests += asked.total;
        theirs.push(plain_sdk::measure(
            server.endpoint(),
            "plain/upload",
            &plain,
        )?);
    }
    daemon.stop()?;
    let written = 3.0 * UPLOAD_BYTES as f64;
    let (ours, theirs) = (median(&ours), median(&theirs));
    println!("\ncheckpoint upload, {} MiB of noise", UPLOAD_BYTES >> 20);
    println!("  mvps checkpoint         {:>8.0} MiB/s", ours / MIB);
    println!("  plain multipart PUT     {:>8.0} MiB/s", theirs / MIB);
    let ratio = ours / theirs;
    let mark = verdicts.ratio("checkpoint upload", ratio, PLAIN);
    println!("  ratio                   {ratio:>8.2} (goal 0.7){mark}");
    println!("  PUT bytes per byte      {:>8.3}", sent as f64 / written);
    println!(
        "  requests per GiB        {:>8.0}",
        requests as f64 / (written / GIB)
    );
    ensure!(ours > 0.0, "a checkpoint has a rate");
    Ok(ours)
}
