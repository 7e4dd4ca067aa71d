//! The extents of a large and almost empty image: every client gets them within a limit of time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use mvps_core::client::Client;
use mvps_core::nbd::{Framing, RequestedOptions};
use tokio::runtime::Runtime;

use super::certificates::qemu_image;
use super::scripts::tool;
use crate::rig::client::attach_with;
use crate::rig::command::Finished;
use crate::rig::daemon::Daemon;
use crate::rig::numbers::Numbers;
use crate::rig::report::Report;
use crate::rig::token::Claims;

/// The image.
const DISK_BYTES: u64 = 1 << 40;

/// Its name, and that of one in which nothing is written.
const IMAGE: &str = "sparse";
const EMPTY: &str = "sparse-empty";

/// Bytes of a page.
const PAGE_BYTES: u64 = 4096;

/// Pages that are written, each far from the others.
const PAGES: u64 = 4096;

/// How long all extents may take, where few requests ask for them.
const LIMIT_SECONDS: f64 = 1.0;

/// How long each may take on average where QEMU asks for them one by one.
const ONE_LIMIT_SECONDS: f64 = 0.001;

/// Compares the extents that each client sees with the pages that were written.
pub fn checks(report: &mut Report, area: &str, daemon: &Daemon) {
    let mut written = Vec::new();
    report.check(area, "1 TiB sparse: writing it", || {
        written = fill(daemon)?;
        Ok(format!("{} pages, half of them published", written.len()))
    });
    report.check(area, "1 TiB sparse: extents, one request", || {
        own_client(daemon, &written)
    });
    report.check(area, "1 TiB sparse: nbdinfo --map", || {
        let uri = daemon.uri_for(&Claims::image(IMAGE, DISK_BYTES));
        let found = tool("nbdinfo", &["--map", "--json", &uri])?;
        judge(&found.stdout, "type", 0, &written)?;
        // Requests of less than 4 GiB, one after the other, are libnbd's.
        in_time(found.elapsed, LIMIT_SECONDS)
    });
    report.check(area, "1 TiB empty: qemu-img map", || {
        // What it takes to make the image does not count.
        let runtime = Runtime::new()?;
        let client = runtime.block_on(attach(daemon, EMPTY))?;
        let found = qemu_map(daemon, EMPTY)?;
        runtime.block_on(client.disconnect());
        judge(&found.stdout, "data", true, &[])?;
        in_time(found.elapsed, LIMIT_SECONDS)
    });
    report.check(area, "1 TiB sparse: qemu-img map", || {
        let found = qemu_map(daemon, IMAGE)?;
        judge(&found.stdout, "data", true, &written)?;
        // Each page, and what is before it.
        let extents = 2 * written.len() + 1;
        let took = in_time(found.elapsed, extents as f64 * ONE_LIMIT_SECONDS)?;
        Ok(format!("{took}, {extents} extents, one by one"))
    });
}

fn qemu_map(daemon: &Daemon, image: &str) -> Result<Finished> {
    let token = Claims::image(image, DISK_BYTES).sign();
    let image = qemu_image(&daemon.setup().listen, &token);
    let arguments = ["map", "--output=json", "--image-opts", &image];
    tool("qemu-img", &arguments)
}

fn in_time(took: Duration, limit_seconds: f64) -> Result<String> {
    let seconds = took.as_secs_f64();
    ensure!(
        seconds < limit_seconds,
        "it took {seconds:.2} s, more than {limit_seconds:.2} s"
    );
    Ok(format!("{seconds:.2} s"))
}

async fn attach(daemon: &Daemon, image: &str) -> Result<Client> {
    let claims = Claims::image(image, DISK_BYTES);
    let client = attach_with(daemon.setup(), &claims, RequestedOptions::everything()).await?;
    ensure!(
        client.export().framing == Framing::Extended,
        "no extended headers"
    );
    Ok(client)
}

/// Writes pages that have no neighbours; returns their numbers in order. Half of them are still in
/// the buffer afterwards.
fn fill(daemon: &Daemon) -> Result<Vec<u64>> {
    let stride = DISK_BYTES / PAGE_BYTES / PAGES;
    let mut numbers = Numbers::new(40);
    let pages: Vec<u64> = (0..PAGES)
        .map(|number| number * stride + 1 + numbers.below(stride - 1))
        .collect();
    let runtime = Runtime::new()?;
    let page = usize::try_from(PAGE_BYTES)?;
    let data = Bytes::from(vec![0x77; page]);
    let client = runtime.block_on(attach(daemon, IMAGE))?;
    for half in 0..2 {
        let some = pages.iter().skip(half).step_by(2);
        let writes = some.map(|page| client.write(page * PAGE_BYTES, data.clone(), false));
        runtime.block_on(futures_util::future::try_join_all(writes))?;
        if half == 0 {
            daemon.checkpoint(IMAGE)?;
        }
    }
    runtime.block_on(client.disconnect());
    Ok(pages)
}

/// Asks for the extents of the whole disk, and again from where each answer ends.
fn own_client(daemon: &Daemon, written: &[u64]) -> Result<String> {
    let runtime = Runtime::new()?;
    runtime.block_on(async {
        let client = attach(daemon, IMAGE).await?;
        let started = Instant::now();
        let (mut at, mut requests, mut found) = (0, 0, Vec::new());
        while at < DISK_BYTES {
            requests += 1;
            let status = client.block_status(at, DISK_BYTES - at, false).await?;
            let status = status.first().context("a context")?;
            for extent in &status.extents {
                if extent.flags == 0 {
                    found.push((at / PAGE_BYTES, extent.length_bytes));
                }
                at += extent.length_bytes;
            }
        }
        let took = started.elapsed().as_secs_f64();
        client.disconnect().await;
        let expected: Vec<_> = written.iter().map(|page| (*page, PAGE_BYTES)).collect();
        ensure!(found == expected, "{} extents with data", found.len());
        ensure!(took < LIMIT_SECONDS, "it took {took:.2} s");
        Ok(format!("{took:.3} s, {requests} requests"))
    })
}

/// Compares a map in JSON with the pages that were written: extents with `field` at `value`.
fn judge(
    json: &str,
    field: &str,
    value: impl Into<serde_json::Value>,
    written: &[u64],
) -> Result<()> {
    let extents: Vec<serde_json::Value> = serde_json::from_str(json)?;
    let value = value.into();
    let start = |extent: &serde_json::Value| {
        let start = extent["offset"].as_u64().filter(|_| field == "type");
        start.or(extent["start"].as_u64())
    };
    let data = extents.iter().filter(|extent| extent[field] == value);
    let found: Vec<_> = data
        .map(|extent| (start(extent), extent["length"].as_u64()))
        .collect();
    let expected: Vec<_> = written
        .iter()
        .map(|page| (Some(page * PAGE_BYTES), Some(PAGE_BYTES)))
        .collect();
    ensure!(
        found == expected,
        "{} of {} extents",
        found.len(),
        expected.len()
    );
    Ok(())
}
