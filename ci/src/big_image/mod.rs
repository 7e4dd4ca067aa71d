//! `cargo ci bigimage`: an image far larger than memory, made by the format module rather than by
//! writing it; what opening it takes, what reading all over it needs, and what its snapshots and
//! clones cost.
//!
//! The content compresses to nothing, so that the whole is made in minutes, but every page is in a
//! frame of its own segment's index and in a leaf of the map, as if it had been written.

mod family;
mod maker;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mvps_core::client::Client;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::Binary;
use crate::daemon::{Daemon, Setup};
use crate::image_file::Numbers;
use crate::kill::attach;
use crate::machine;
use crate::object_server::ObjectServer;
use crate::report::Report;
use crate::token::Claims;
use crate::workspace;

use family::Family;
use maker::Maker;

const IMAGE: &str = "big";
const PREFIX: &str = "b/";

/// What it may take.
const OPEN_LIMIT: Duration = Duration::from_secs(2);
const OPEN_REQUESTS_MOST: u64 = 20;
const RSS_MOST_BYTES: u64 = 512 << 20;

/// How large, and how much of it is read.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Size of the image in GiB.
    #[arg(long, default_value_t = 1024)]
    pub size_gib: u64,
    /// Every so many pages one is written: 4 makes 64 Mi pages of a TiB.
    #[arg(long, default_value_t = 4)]
    pub every: u64,
    /// Random reads.
    #[arg(long, default_value_t = 20_000)]
    pub reads: u64,
    /// Clones.
    #[arg(long, default_value_t = 100)]
    pub clones: u32,
}

/// Runs it.
///
/// # Errors
/// If a page is wrong or a limit is not kept.
pub fn run(binary: &Binary, options: &Options) -> Result<()> {
    machine::ensure(machine::NBD_TOOLS)?;
    ensure!((1..=16).contains(&options.every), "one page in 1 to 16");
    ensure!(options.clones >= 2, "two clones at least");
    let collector = workspace::build("mvps-gc", binary.profile)?;
    let binary = binary.path()?;
    let directory = TempDir::with_prefix("mvps-big")?;
    let mut server = ObjectServer::start(&directory.path().join("server"))?;
    let runtime = Runtime::new()?;
    let made = Instant::now();
    let mut maker = Maker::new(crate::bench::client(server.endpoint()), options);
    let manifest = runtime.block_on(maker.make())?;
    println!(
        "made {} pages of {} GiB in {} segments and {} map objects: {:.0} s",
        maker.written_pages,
        options.size_gib,
        manifest.segments.len(),
        manifest.maps.len(),
        made.elapsed().as_secs_f64()
    );
    let setup = Setup::new(&binary, server.store(PREFIX), directory.path())?;
    let daemon = setup.start()?;
    let mut report = Report::default();
    report.check("bigimage", "opened, and read all over", || {
        open_and_read(&runtime, &mut server, &daemon, options)
    });
    let mut family = Family {
        runtime: &runtime,
        server: &mut server,
        collector: Setup {
            binary: collector,
            ..setup.clone()
        },
        setup,
        options,
    };
    report.check("bigimage", "a snapshot and a clone", || family.costs());
    report.check("bigimage", "clones share one copy", || family.share());
    report.check("bigimage", "what deleting all but one leaves", || {
        family.leave_one(daemon)
    });
    report.finish("cargo ci bigimage")
}

/// Reads `reads` pages anywhere, which must be as they were made, but for those of `except`.
fn read_all_over(
    runtime: &Runtime,
    client: &Client,
    options: &Options,
    reads: u64,
    except: &[u64],
) -> Result<()> {
    let mut numbers = Numbers::new(7);
    for _ in 0..reads {
        let page = numbers.next() % (options.size_gib << 18);
        if except.contains(&page) {
            continue;
        }
        let data = runtime.block_on(client.read(page << 12, 4096))?;
        let stamp = u64::from_le_bytes(data[..8].try_into()?);
        let expected = match page.is_multiple_of(options.every) {
            true => page + 1,
            false => 0,
        };
        ensure!(stamp == expected, "page {page} holds {stamp}");
    }
    Ok(())
}

fn open_and_read(
    runtime: &Runtime,
    server: &mut ObjectServer,
    daemon: &Daemon,
    options: &Options,
) -> Result<String> {
    let before = server.requests()?;
    let opening = Instant::now();
    let claims = Claims::image(IMAGE, options.size_gib << 30);
    let client = runtime.block_on(attach(daemon.setup(), &claims))?;
    let took = opening.elapsed();
    let requests = server.requests()?.since(before).total;
    let reading = Instant::now();
    read_all_over(runtime, &client, options, options.reads, &[])?;
    let rate = options.reads as f64 / reading.elapsed().as_secs_f64();
    let highest = daemon.memory_bytes()?.1;
    let highest_mib = highest >> 20;
    runtime.block_on(client.disconnect());
    let seen = format!(
        "open {:.3} s, {requests} requests; {rate:.0} reads a second; RSS at most \
         {highest_mib} MiB",
        took.as_secs_f64()
    );
    let is_good = took <= OPEN_LIMIT && requests <= OPEN_REQUESTS_MOST && highest <= RSS_MOST_BYTES;
    ensure!(is_good, "{seen}");
    Ok(seen)
}
