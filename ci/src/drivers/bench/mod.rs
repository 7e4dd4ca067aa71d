//! `cargo ci bench`: mvps on the S3 server beside `nbdkit memory` and `qemu-nbd` on a raw file, in
//! one run, interleaved, so that whatever slows the machine slows all three.
//!
//! Figures are medians of the runs; a ratio is mvps divided by the other. Figures below their goals
//! are marked in the tables and listed and counted at the end, but fail nothing: one run on a busy
//! machine proves nothing by itself. Memory, bytes and requests are stated, not judged.

mod cold;
mod figures;
mod plain_sdk;
mod rows;
mod setup;
mod sustained;
mod upload;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;

use crate::rig::daemon::Daemon;
use crate::rig::machine;
use crate::rig::object_server::ObjectServer;
use crate::rig::server::{Server, StandIn, StandInKind};
use crate::rig::workspace::{self, Profile};

use figures::Verdicts;
use rows::Contestant;
use setup::{DISK_BYTES, IMAGE, NO_TIMER, start};

pub use plain_sdk::{PlainSdk, run as run_plain_sdk};
pub use setup::Options;

/// Measures every row on every server and prints the tables.
///
/// # Errors
/// If a server or a client fails.
pub fn run(binary: Option<&Path>, options: &Options) -> Result<()> {
    machine::ensure(machine::NBD_TOOLS)?;
    let directory = TempDir::with_prefix("mvps-bench")?;
    let place = directory.path();
    let nbdkit = StandIn::start(StandInKind::Nbdkit, place, "nbdkit", DISK_BYTES)?;
    let qemu = StandIn::start(StandInKind::QemuNbd, place, "raw", DISK_BYTES)?;
    let mut verdicts = Verdicts::default();
    if options.without_mvps {
        let contestants = stand_ins(&nbdkit, &qemu);
        let table = rows::buffered(options, &contestants)?;
        table.print("buffered", None, &mut verdicts);
        return Ok(());
    }
    let binary = match binary {
        Some(path) => path.to_owned(),
        None => workspace::build("mvps", Profile::Release)?,
    };
    let mut server = ObjectServer::start(&place.join("objects"))?;
    against_stand_ins(
        options,
        &binary,
        &mut server,
        place,
        (&nbdkit, &qemu),
        &mut verdicts,
    )?;
    cold::measure(options, &binary, &server, place, &mut verdicts)?;
    let upload_rate = upload::against_plain_sdk(&binary, &mut server, place, &mut verdicts)?;
    if options.sustained_seconds > 0 {
        let limit = Duration::from_secs(options.sustained_seconds);
        sustained::measure(limit, upload_rate, &binary, &server, place, &mut verdicts)?;
    } else {
        println!("\nsustained random writes: NOT MEASURED");
    }
    verdicts.print();
    Ok(())
}

fn stand_ins(nbdkit: &StandIn, qemu: &StandIn) -> Vec<Contestant<'static>> {
    let contestant = |name, server: &StandIn| Contestant {
        name,
        uri: server.uri(),
        mvps: None,
    };
    vec![
        contestant(StandInKind::Nbdkit.name(), nbdkit),
        contestant(StandInKind::QemuNbd.name(), qemu),
    ]
}

/// The rows that the other servers can do too.
fn against_stand_ins(
    options: &Options,
    binary: &Path,
    server: &mut ObjectServer,
    place: &Path,
    (nbdkit, qemu): (&StandIn, &StandIn),
    verdicts: &mut Verdicts,
) -> Result<()> {
    let mut daemon = start(binary, server, place, "rows", NO_TIMER)?;
    let uri = daemon.uri(IMAGE, DISK_BYTES)?;
    let mut contestants = vec![Contestant {
        name: "mvps",
        uri: uri.clone(),
        mvps: Some(&daemon),
    }];
    contestants.extend(stand_ins(nbdkit, qemu));
    let table = rows::buffered(options, &contestants)?;
    table.print("buffered", Some(figures::RAW_FILE), verdicts);
    print_memory(&daemon, qemu)?;
    upload::checkpoint_everything(&daemon, server, &uri)?;
    let table = rows::cached(options, &contestants)?;
    table.print("cached", Some(figures::RAW_FILE), verdicts);
    print_memory(&daemon, qemu)?;
    drop(contestants);
    daemon.stop()?;
    Ok(())
}

fn print_memory(daemon: &Daemon, qemu: &StandIn) -> Result<()> {
    let mib = |bytes| bytes / (1024 * 1024);
    let (now, highest) = daemon.memory_bytes()?;
    let (raw, _) = qemu.memory_bytes()?;
    println!(
        "RSS: mvps {} MiB (highest {}), qemu-nbd {} MiB",
        mib(now),
        mib(highest),
        mib(raw)
    );
    Ok(())
}
