//! `cargo ci powercut`: the real daemon on a disk whose power is cut, checked with the kill
//! driver's load, stamps and model.
//!
//! The buffer store lies on an ext4 on a loop device, whose file lies on a btrfs. A reflink copy of
//! that file, taken at an instant at which the daemon stands still, is exactly what the disk held:
//! what the daemon and ext4 had not brought to the disk is missing. Then the daemon is
//! killed, the copy takes the place of the file, ext4 replays its journal, and the daemon starts on
//! what is left. It has to hold everything that was flushed or checkpointed (D3), and be one prefix
//! of the commit order (D4).
//!
//! [`tail`] forces what a disk does rarely: blocks of an unsynced journal missing in the middle,
//! and, as the opposite that must be refused, a damaged block of what was synced.
//!
//! Invariant: dropping [`Machine`](disk::Machine) unmounts everything and frees its loop devices,
//! also after a failure. Only SIGKILL of this program leaves mounts behind: `umount` those below
//! the directory it printed.

mod cuts;
mod disk;
mod tail;

use std::path::Path;

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::rig::machine;
use crate::rig::numbers::seed_of_now;
use crate::rig::report::Report;
use crate::rig::workspace::Binary;
use disk::Machine;

/// How often to cut the power, and from which seed.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Power cuts under load.
    #[arg(long, default_value_t = 100)]
    pub cuts: usize,
    /// Power cuts with a journal's tail torn by force.
    #[arg(long, default_value_t = 10)]
    pub tails: usize,
    /// Chooses loads and instants; by default something new.
    #[arg(long)]
    pub seed: Option<u64>,
}

/// Cuts the power under load, and with a torn tail of the journal.
///
/// # Errors
/// If a round cannot be explained; the disk's file is then kept.
pub fn run(binary: &Binary, options: &Options) -> Result<()> {
    ensure!(
        machine::is_root(),
        "cargo ci powercut mounts filesystems on loop devices: run it as root"
    );
    machine::ensure(machine::POWER_CUT_TOOLS)?;
    let binary = binary.path()?;
    let directory = TempDir::with_prefix("mvps-powercut")?;
    let seed = options.seed.unwrap_or_else(seed_of_now);
    println!("seed {seed}, in {}", directory.path().display());
    let mut report = Report::default();
    let mut failed = false;
    if options.cuts > 0 {
        failed |= !report.check("powercut", "under load", || {
            on_machine(&directory.path().join("load"), |machine, place| {
                cuts::run(options.cuts, &binary, machine, place, seed)
            })
        });
    }
    if options.tails > 0 {
        failed |= !report.check("powercut", "torn tail, damaged middle", || {
            on_machine(&directory.path().join("tail"), |machine, place| {
                tail::run(options.tails, &binary, machine, place, seed)
            })
        });
    }
    if failed {
        println!("kept: {}", directory.keep().display());
    }
    report.finish("cargo ci powercut")
}

fn on_machine(
    place: &Path,
    body: impl FnOnce(&mut Machine, &Path) -> Result<String>,
) -> Result<String> {
    std::fs::create_dir_all(place)?;
    let mut machine = Machine::new(place)?;
    body(&mut machine, place)
}
