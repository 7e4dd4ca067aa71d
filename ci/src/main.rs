//! `cargo ci …`: the checks, drivers and measurements of mvps, the same here and on a CI machine.
//!
//! Everything runs the real binary from outside, as a user would. Nothing here is part of the
//! product, and nothing here may make a failing check pass: a driver that cannot run fails.

#![allow(clippy::print_stdout)] // A command-line program's results go to standard output.

mod check;
mod drivers;
mod evidence;
mod model;
mod rig;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use drivers::{
    advisories, bench, big_image, capture, docs, filesystem, foreground, full_disk, fuzz, gc,
    gc_crashes, hostile, idle, interop, kill, memory, mkfs, outage, point_in_time, powercut, sim,
    space, variants,
};
use rig::server::StandInKind;
use rig::workspace::Binary;

/// The command line of `cargo ci`.
#[derive(Parser)]
#[command(name = "cargo ci", about = "Checks, drivers and measurements of mvps")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Formatting, lints, dependency rules, rooms, bans, length of files.
    Check {
        #[command(flatten)]
        options: check::Options,
    },
    /// Known vulnerabilities of all dependencies; needs the RustSec database.
    Advisories {
        #[command(flatten)]
        options: advisories::Options,
    },
    /// NBD clients of every make against the daemon: local store, S3 server.
    Interop {
        #[command(flatten)]
        binary: Binary,
        /// Run the suite against another server instead, to prove the suite itself.
        #[arg(long, value_enum)]
        against: Option<StandInKind>,
    },
    /// A real filesystem on an attached disk, found again with an empty buffer store.
    Filesystem {
        #[command(flatten)]
        binary: Binary,
        /// Run against another server instead, to prove the driver itself.
        #[arg(long, value_enum)]
        against: Option<StandInKind>,
    },
    /// mkfs and blkdiscard of a 2 TiB image, against the clock.
    Mkfs {
        #[command(flatten)]
        binary: Binary,
        #[command(flatten)]
        options: mkfs::Options,
    },
    /// SIGKILL at random instants under load; a model judges what is left.
    Kill {
        #[command(flatten)]
        binary: Binary,
        #[command(flatten)]
        options: kill::Options,
    },
    /// Power cuts at random instants under load, on a real filesystem; as root.
    #[command(name = "powercut")]
    PowerCut {
        #[command(flatten)]
        binary: Binary,
        #[command(flatten)]
        options: powercut::Options,
    },
    /// The collector beside a running daemon; everything is checked afterwards.
    Gc {
        #[command(flatten)]
        binary: Binary,
    },
    /// Two collectors in a tight loop, killed at random, beside a server under load that is killed,
    /// moved and taken over.
    GcCrashes {
        #[command(flatten)]
        binary: Binary,
        #[command(flatten)]
        options: gc_crashes::Options,
    },
    /// The object store is away for a minute, under load.
    Outage {
        #[command(flatten)]
        binary: Binary,
        #[command(flatten)]
        options: outage::Options,
    },
    /// The disk of the buffers is full: by mvps itself, by a stranger, while opening; as root.
    #[command(name = "fulldisk")]
    FullDisk {
        #[command(flatten)]
        binary: Binary,
        #[command(flatten)]
        options: full_disk::Options,
    },
    /// What the process takes of the memory under the loads that take most, against its limit.
    Memory {
        #[command(flatten)]
        binary: Binary,
        #[command(flatten)]
        options: memory::Options,
    },
    /// What cleaning costs those who write meanwhile.
    Foreground {
        #[command(flatten)]
        binary: Binary,
        #[command(flatten)]
        options: foreground::Options,
    },
    /// Snapshot, rollback and clone, by what is read.
    #[command(name = "pointintime")]
    PointInTime {
        #[command(flatten)]
        binary: Binary,
    },
    /// What random overwrites leave in the bucket, and what they send, with cleaning and mvps-gc.
    Space {
        #[command(flatten)]
        binary: Binary,
        #[command(flatten)]
        options: space::Options,
    },
    /// An image far larger than memory: what opening it takes, and reading all over it.
    Bigimage {
        #[command(flatten)]
        binary: Binary,
        #[command(flatten)]
        options: big_image::Options,
    },
    /// Requests of an image that nobody writes to, and of opening one with many segments.
    Idle {
        #[command(flatten)]
        binary: Binary,
        #[command(flatten)]
        options: idle::Options,
    },
    /// Hostile bytes against codecs, sessions and engine: every target of `fuzz/`.
    Fuzz {
        #[command(flatten)]
        binary: Binary,
        /// Do not fuzz: record what real clients send, as seeds.
        #[arg(long)]
        capture: bool,
        #[command(flatten)]
        options: fuzz::Options,
    },
    /// Every command of the README and of the handbook, as it is printed.
    Docs {
        #[command(flatten)]
        binary: Binary,
        #[command(flatten)]
        options: docs::Options,
    },
    /// The simulation at its nightly length.
    Sim {
        #[command(flatten)]
        options: sim::Options,
    },
    /// Known-bad variants of what the simulation does not run: the core's tests fail under each.
    Variants,
    /// Thousands of clients that mean harm, while fio runs on another image.
    Hostile {
        #[command(flatten)]
        binary: Binary,
        #[command(flatten)]
        options: hostile::Options,
    },
    /// Everything that a capability must show.
    Evidence {
        /// The capability.
        #[arg(value_enum)]
        capability: evidence::Capability,
        #[command(flatten)]
        options: evidence::Options,
    },
    /// mvps beside qemu-nbd on a raw file, and beside the plain SDK.
    Bench {
        /// Run this binary instead of building the release one.
        #[arg(long)]
        mvps: Option<PathBuf>,
        #[command(flatten)]
        options: bench::Options,
    },
    /// The comparator of `bench`.
    #[command(hide = true)]
    PlainSdk(bench::PlainSdk),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    match Arguments::parse().command {
        Command::Check { options } => check::run(&options),
        Command::Interop { binary, against } => interop::run(&binary, against),
        Command::Filesystem { binary, against } => filesystem::run_all(&binary, against),
        Command::Mkfs { binary, options } => mkfs::run(&binary, &options),
        Command::Kill { binary, options } => kill::run(&binary, &options),
        Command::PowerCut { binary, options } => powercut::run(&binary, &options),
        Command::Docs { binary, options } => docs::run(&binary, &options),
        Command::Gc { binary } => gc::run(&binary),
        Command::GcCrashes { binary, options } => gc_crashes::run(&binary, &options),
        Command::FullDisk { binary, options } => full_disk::run(&binary, &options),
        Command::Memory { binary, options } => memory::run(&binary, &options),
        Command::Outage { binary, options } => outage::run(&binary, &options),
        Command::Foreground { binary, options } => foreground::run(&binary, &options),
        Command::PointInTime { binary } => point_in_time::run(&binary),
        Command::Space { binary, options } => space::run(&binary, &options),
        Command::Advisories { options } => advisories::run(&options),
        Command::Bigimage { binary, options } => big_image::run(&binary, &options),
        Command::Idle { binary, options } => idle::run(&binary, &options),
        Command::Fuzz {
            binary,
            capture: true,
            ..
        } => capture::run_all(&binary),
        Command::Fuzz { options, .. } => fuzz::run(&options),
        Command::Sim { options } => sim::run(&options),
        Command::Variants => variants::run_all(),
        Command::Hostile { binary, options } => hostile::run(&binary, &options),
        Command::Evidence {
            capability,
            options,
        } => evidence::run(capability, &options),
        Command::Bench { mvps, options } => bench::run(mvps.as_deref(), &options),
        Command::PlainSdk(options) => bench::run_plain_sdk(&options),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Arguments::command().debug_assert();
    }
}
