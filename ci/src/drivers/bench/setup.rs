//! What every table needs.

use std::path::Path;

use super::contestant::Binaries;
use super::options::Options;

/// One run of the bench.
pub struct Bench<'a> {
    /// What was asked for.
    pub options: &'a Options,
    /// What is measured.
    pub binaries: Binaries,
    /// The folder in which everything happens.
    pub place: &'a Path,
    /// Whether the daemon keeps on its disk what it uploaded and read.
    pub has_disk_cache: bool,
}
