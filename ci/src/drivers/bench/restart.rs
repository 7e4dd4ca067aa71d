//! How long a daemon takes from its start to its first read, with the whole region in its buffer:
//! the object store was away while that was written, and then the daemon was killed.
//!
//! The local files lie in the system's page cache as far as there is room: a killed process is
//! measured, not a machine that lost its power.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::contestant::{IMAGE, fill};
use super::goals;
use super::production::BUFFER_LIMIT_BYTES;
use super::results::Results;
use super::setup::Bench;
use crate::rig::client::attach;
use crate::rig::daemon::{Daemon, Setup};
use crate::rig::fio::median;
use crate::rig::host;
use crate::rig::object_server::ObjectServer;
use crate::rig::process;
use crate::rig::token::Claims;

/// The names of its figures begin with this.
const NAME: &str = "restart";

/// What is written while the store is still there, so that the image is open.
const OPENING_BYTES: u64 = 1 << 20;

/// What is read first.
const READ_BYTES: u32 = 4096;

/// What one restart took.
#[derive(Default)]
struct Seen {
    buffered_gib: Vec<f64>,
    ready_seconds: Vec<f64>,
    read_seconds: Vec<f64>,
    memory_mib: Vec<f64>,
}

/// Measures restarts.
///
/// # Errors
/// If something does not run, or what was buffered is not read.
pub fn measure(bench: &Bench<'_>, results: &mut Results) -> Result<()> {
    if !bench.options.wants(NAME) {
        return Ok(());
    }
    let mut seen = Seen::default();
    for _ in 0..bench.options.rounds {
        measure_round(bench, &mut seen)?;
    }
    let title = format!("{NAME} after a kill, medians of {}", bench.options.rounds);
    results.title(&title);
    let mut fact = |name: &str, values: &[f64], unit, goal| {
        results.fact(&format!("{NAME}: {name}"), median(values), unit, goal);
    };
    fact("buffered", &seen.buffered_gib, "GiB", None);
    fact("until it is ready", &seen.ready_seconds, "s", None);
    let goal = Some(goals::RESTART_SECONDS);
    fact("until the first read", &seen.read_seconds, "s", goal);
    fact("RSS until then, highest", &seen.memory_mib, "MiB", None);
    Ok(())
}

fn measure_round(bench: &Bench<'_>, seen: &mut Seen) -> Result<()> {
    // What the deletion of the round before left to do for the disk.
    host::sync_file_system(bench.place)?;
    let directory = TempDir::with_prefix_in("restart-", bench.place)?;
    let region = bench.options.region;
    let mut server = ObjectServer::start(&directory.path().join("objects"))?;
    let store = server.store(&format!("{IMAGE}/"));
    let mut setup = Setup::new(&bench.binaries.mvps, store, &directory.path().join("mvps"))?;
    // Far from the limit writes are not slowed down.
    let limit = BUFFER_LIMIT_BYTES.max(2 * region);
    setup.flags = vec!["--buffer-limit-bytes".to_owned(), limit.to_string()];
    let claims = Claims::image(IMAGE, region);
    let daemon = setup.start()?;
    let uri = daemon.uri_for(&claims);
    fill(&uri, OPENING_BYTES)?;
    server.cut()?;
    fill(&uri, region)?;
    let buffered = buffered_bytes(&daemon)?;
    ensure!(
        buffered >= region / 2,
        "only {} MiB of {} wait in the buffer",
        buffered >> 20,
        region >> 20
    );
    seen.buffered_gib.push(buffered as f64 / f64::from(1 << 30));
    daemon.kill()?;
    server.restore()?;
    let runtime = Runtime::new()?;
    let started = Instant::now();
    let daemon = setup.start()?;
    seen.ready_seconds.push(started.elapsed().as_secs_f64());
    let read = runtime.block_on(async {
        let client = attach(&setup, &claims).await?;
        let read = client.read(region / 2, READ_BYTES).await?;
        anyhow::Ok((started.elapsed(), read))
    });
    let (elapsed, read) = read.context("the first read after a restart")?;
    ensure!(
        read.iter().any(|byte| *byte != 0),
        "what was buffered before the restart is not there"
    );
    seen.read_seconds.push(elapsed.as_secs_f64());
    let memory = process::memory_bytes(daemon.process())?.1;
    seen.memory_mib.push(memory as f64 / f64::from(1 << 20));
    daemon.kill()
}

fn buffered_bytes(daemon: &Daemon) -> Result<u64> {
    let status = daemon.status()?;
    let image = status["images"].as_array().and_then(|all| all.first());
    let image = image.context("no image in the status")?;
    image["buffered_bytes"]
        .as_u64()
        .context("buffered bytes in the status")
}
