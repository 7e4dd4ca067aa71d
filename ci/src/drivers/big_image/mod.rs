//! `cargo ci bigimage`: measures an image far larger than memory: opening it, reading all over it,
//! and its snapshots and clones.
//!
//! The format module generates the image; nothing is written through a server. The content
//! compresses to nothing, so that generating it takes minutes, but every page is in a frame of its
//! own segment's index and in a leaf of the map, as if it had been written.

mod clones;
mod generator;
mod image;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::rig::client::attach;
use crate::rig::daemon::{Daemon, Setup};
use crate::rig::machine;
use crate::rig::object_server::{ObjectServer, sdk_client};
use crate::rig::report::Report;
use crate::rig::token::Claims;
use crate::rig::workspace::{self, Binary};

use clones::Clones;
use generator::Generator;
use image::{IMAGE, PREFIX, read_all_over};

pub use image::Options;

/// Limits of opening the image and reading all over it.
const OPEN_LIMIT: Duration = Duration::from_secs(2);
const OPEN_REQUESTS_MOST: u64 = 20;
const RSS_MOST_BYTES: u64 = 512 << 20;

/// Generates the image, opens it, reads it, and makes and deletes snapshots and clones of it.
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
    let mut generator = Generator::new(sdk_client(server.endpoint()), options);
    let manifest = runtime.block_on(generator.generate())?;
    println!(
        "made {} pages of {} GiB in {} segments and {} map objects: {:.0} s",
        generator.written_pages,
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
    let mut clones = Clones {
        runtime: &runtime,
        server: &mut server,
        collector: Setup {
            binary: collector,
            ..setup.clone()
        },
        setup,
        options,
    };
    report.check("bigimage", "a snapshot and a clone", || clones.costs());
    report.check("bigimage", "clones share one copy", || clones.share());
    report.check("bigimage", "what deleting all but one leaves", || {
        clones.leave_one(daemon)
    });
    report.finish("cargo ci bigimage")
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
