//! A cell of the table: one client, one way in.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::super::way::Way;
use crate::rig::daemon::Daemon;

/// How long one client may take.
pub const CLIENT_LIMIT: Duration = Duration::from_secs(120);

/// Bytes of a page, as images have them here.
pub const PAGE_BYTES: u64 = 4096;

/// How a cell begins whose client cannot go that way at all; it is no pass.
pub const CANNOT: &str = "cannot: ";

/// What a cell is given.
pub struct At<'a> {
    /// The way in.
    pub way: &'a Way,
    /// The daemon that serves it.
    pub daemon: &'a Daemon,
    /// A directory of this cell's own.
    pub place: &'a Path,
}

/// A check; returns what it saw.
pub type Cell = fn(&At<'_>) -> Result<String>;
