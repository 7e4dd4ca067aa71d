//! What the tables share: the options, the image of the rows, and how mvps is started.

use std::path::Path;

use anyhow::Result;

use crate::rig::daemon::{Daemon, Setup};
use crate::rig::object_server::ObjectServer;

/// What to measure, and for how long.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Runs of each row; the median counts.
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// Seconds of each run of a row.
    #[arg(long, default_value_t = 4)]
    pub seconds: u64,
    /// Seconds of the sustained writes; 0 leaves them out.
    #[arg(long, default_value_t = 120)]
    pub sustained_seconds: u64,
    /// Leave out mvps, to prove the rows on the others.
    #[arg(long)]
    pub without_mvps: bool,
}

/// The size of the disks.
pub const DISK_BYTES: u64 = 1024 * 1024 * 1024;

/// The image of the rows.
pub const IMAGE: &str = "bench";

/// No checkpoint because of the time; a full generation is sealed and uploaded as ever.
pub const NO_TIMER: &[&str] = &["--checkpoint-interval-ms", "86400000"];

/// A daemon on the S3 server, with its own buffer store `name`.
///
/// # Errors
/// If it does not start.
pub fn start(
    binary: &Path,
    server: &ObjectServer,
    place: &Path,
    name: &str,
    flags: &[&str],
) -> Result<Daemon> {
    let mut setup = Setup::new(binary, server.store("bench/"), &place.join(name))?;
    setup.flags = flags.iter().map(ToString::to_string).collect();
    setup.start()
}
