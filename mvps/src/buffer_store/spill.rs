//! Waits for fjall's workers, which write sealed memtables to tables.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fjall::{Database, Keyspace, PersistMode};

use super::errors::{Failure, write_error};
use super::files::DatabaseDirectory;

/// A spill writes a generation.
pub const SPILL_LIMIT: Duration = Duration::from_secs(900);

/// A spill under way.
pub struct Spill {
    fjall: Database,
    keyspace: Keyspace,
    /// Last, and held: the files are written whatever becomes of the generation meanwhile.
    _directory: Arc<DatabaseDirectory>,
}

impl Spill {
    /// Of the sealed generation in `keyspace`, whose memtable fjall's workers have.
    pub fn new(fjall: Database, keyspace: Keyspace, directory: Arc<DatabaseDirectory>) -> Self {
        Self {
            fjall,
            keyspace,
            _directory: directory,
        }
    }

    /// Waits until the generation is on the disk.
    pub fn wait(&self) -> Result<(), Failure> {
        wait_for_flush(&self.fjall, &self.keyspace, SPILL_LIMIT)
    }
}

/// Waits until fjall's workers have written the sealed memtables of `keyspace`.
pub fn wait_for_flush(
    fjall: &Database,
    keyspace: &Keyspace,
    limit: Duration,
) -> Result<(), Failure> {
    let begun = Instant::now();
    while keyspace.sealed_memtable_count() > 0 {
        // A worker that failed poisons the database; one that panicked does not.
        fjall.persist(PersistMode::Buffer).map_err(write_error)?;
        if begun.elapsed() > limit {
            return Err(Failure::Poisoned(format!(
                "no flush within {} s: fjall's workers are gone or the disk hangs",
                limit.as_secs()
            )));
        }
        thread::sleep(Duration::from_micros(200));
    }
    fjall.persist(PersistMode::Buffer).map_err(write_error)
}
