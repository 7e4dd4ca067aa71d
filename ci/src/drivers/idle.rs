//! `cargo ci idle`: an image that nobody writes to causes no request to the object store, and
//! opening an image with many segments causes few.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::rig::client::attach;
use crate::rig::daemon::Setup;
use crate::rig::machine;
use crate::rig::object_server::ObjectServer;
use crate::rig::report::Report;
use crate::rig::token::Claims;
use crate::rig::workspace::Binary;

/// The size of the image.
const DISK_BYTES: u64 = 256 * 1024 * 1024;

/// Bytes of a page.
const PAGE_BYTES: u64 = 4096;

/// The most requests that opening may take, whatever the number of segments: the probe of the
/// store, the manifest's search, publication and re-check, and the segments since the last map
/// compaction.
const OPENING_LIMIT: u64 = 150;

/// How long the image stays idle, and how much history the opened one has.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Seconds of idleness.
    #[arg(long, default_value_t = 120)]
    pub seconds: u64,
    /// Segments of the image that is opened.
    #[arg(long, default_value_t = 1000)]
    pub segments: u64,
}

/// Counts the requests of an idle image, and those of opening one with many segments.
///
/// # Errors
/// If either causes more requests than its limit.
pub fn run(binary: &Binary, options: &Options) -> Result<()> {
    machine::ensure(machine::NBD_TOOLS)?;
    let binary = binary.path()?;
    let directory = TempDir::with_prefix("mvps-idle")?;
    let mut server = ObjectServer::start(&directory.path().join("server"))?;
    let runtime = Runtime::new()?;
    let mut report = Report::default();
    report.check("idle", "no request with a client connected", || {
        let seconds = Duration::from_secs(options.seconds);
        idle(&runtime, seconds, &binary, &mut server, directory.path())
    });
    report.check("idle", "opening an image of many segments", || {
        opening(
            &runtime,
            options.segments,
            &binary,
            &mut server,
            directory.path(),
        )
    });
    report.finish("cargo ci idle")
}

fn idle(
    runtime: &Runtime,
    duration: Duration,
    binary: &Path,
    server: &mut ObjectServer,
    place: &Path,
) -> Result<String> {
    let setup = Setup::new(binary, server.store("idle/"), &place.join("idle"))?;
    let daemon = setup.start()?;
    let claims = Claims::image("idle", DISK_BYTES);
    let client = runtime.block_on(attach(&setup, &claims))?;
    runtime.block_on(client.write(0, vec![7; 65536].into(), true))?;
    daemon.checkpoint("idle")?;
    let before = server.requests()?;
    std::thread::sleep(duration);
    let asked = server.requests()?.since(before);
    runtime.block_on(client.read(0, 4096))?;
    runtime.block_on(client.disconnect());
    daemon.stop()?;
    ensure!(asked.total == 0, "{} requests while idle", asked.total);
    Ok(format!("0 requests in {} s", duration.as_secs()))
}

fn opening(
    runtime: &Runtime,
    segments: u64,
    binary: &Path,
    server: &mut ObjectServer,
    place: &Path,
) -> Result<String> {
    let mut setup = Setup::new(binary, server.store("opening/"), &place.join("opening"))?;
    let daemon = setup.start()?;
    let claims = Claims::image("opening", DISK_BYTES);
    let client = runtime.block_on(attach(&setup, &claims))?;
    let pages = DISK_BYTES / PAGE_BYTES;
    for segment in 0..segments {
        let page = segment * 7919 % pages;
        let data = segment.to_le_bytes().repeat(512);
        runtime.block_on(client.write(page * PAGE_BYTES, data.into(), false))?;
        daemon.checkpoint("opening")?;
    }
    runtime.block_on(client.disconnect());
    daemon.stop()?;
    setup.buffer = place.join("opening-elsewhere");
    let start = server.requests()?;
    let daemon = setup.start()?;
    let started = server.requests()?;
    let client = runtime.block_on(attach(&setup, &claims))?;
    let opened = server.requests()?;
    for segment in [0, segments / 2, segments - 1] {
        let page = segment * 7919 % pages;
        let data = runtime.block_on(client.read(page * PAGE_BYTES, 4096))?;
        ensure!(
            data[..8] == segment.to_le_bytes(),
            "page of segment {segment} is wrong"
        );
    }
    let read = server.requests()?;
    runtime.block_on(client.disconnect());
    daemon.stop()?;
    let opening = opened.since(started).total;
    ensure!(opening <= OPENING_LIMIT, "opening took {opening} requests");
    Ok(format!(
        "{segments} segments: start {}, open {opening}, three pages {} requests",
        started.since(start).total,
        read.since(opened).total
    ))
}
