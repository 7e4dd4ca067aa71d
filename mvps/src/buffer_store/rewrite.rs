//! Writes a store's data anew, to other files.
//!
//! After a failed sync the system may hold pages that it believes written and that are not: what a
//! later process reads back is right until the next power cut, whatever a later sync says. So the
//! first opening after a failed sync copies everything into a new database and syncs that, before
//! anything is acknowledged; then the new database takes the place of the old one.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use mvps_core::env::{
    BufferBatch, BufferError, BufferHandle, BufferRecord, PageRun, RecordEntry, RecordHeader,
};
use mvps_core::ids::Lsn;

use super::database::{Found, FoundGeneration, OpenDatabase};
use super::errors::Failure;
use super::files::{self, DirectoryLock, Layout};
use super::record::Seed;
use super::sync::JournalSync;

/// In a rewritten database: it is whole, and is to replace the other.
const COMPLETE: &str = "complete";

fn failed(path: &Path) -> impl Fn(io::Error) -> BufferError + '_ {
    move |error| BufferError::Io {
        reason: format!("{}: {error}", path.display()),
    }
}

/// Puts a rewritten database in place, if one is complete; removes one that is not.
pub fn finish(layout: &Layout) -> Result<(), BufferError> {
    let rewritten = layout.rewritten();
    let replace = || -> io::Result<()> {
        if !fs::exists(&rewritten)? {
            return Ok(());
        }
        if !fs::exists(rewritten.join(COMPLETE))? {
            return fs::remove_dir_all(&rewritten);
        }
        let database = layout.database();
        if fs::exists(&database)? {
            fs::remove_dir_all(&database)?;
        }
        fs::rename(&rewritten, &database)?;
        files::sync_directory(&layout.image)?;
        if fs::exists(layout.sync_failed())? {
            fs::remove_file(layout.sync_failed())?;
        }
        files::sync_directory(&layout.image)
    };
    replace().map_err(failed(&rewritten))
}

/// Copies `found` to a new database and puts that in place. The caller opens it from scratch.
pub fn rewrite(
    layout: &Layout,
    seed: Seed,
    lock: &Arc<DirectoryLock>,
    old: OpenDatabase,
    found: Found,
) -> Result<(), BufferError> {
    let directory = layout.rewritten();
    let first = found.generations.first();
    let first = first.expect("a database has a generation");
    let lock = Arc::clone(lock);
    let number = first.stored.generation;
    let mut new = OpenDatabase::create(directory.clone(), seed, lock, number, first.start)?;
    for (position, generation) in found.generations.iter().enumerate() {
        if position > 0 {
            new.seal_and_skip(generation.stored.generation, generation.start)
                .map_err(Failure::into_open)?;
        }
        copy_generation(&mut new, generation)?;
    }
    if let Some(metadata) = &found.metadata {
        new.put_metadata(metadata).map_err(Failure::into_open)?;
    }
    let io_failed = failed(&directory);
    let mut sync = JournalSync::open(directory.clone(), new.progress()).map_err(&io_failed)?;
    sync.sync().map_err(&io_failed)?;
    drop((sync, new, old, found));
    files::write_durably(&directory.join(COMPLETE), &[]).map_err(&io_failed)?;
    finish(layout)
}

fn copy_generation(new: &mut OpenDatabase, from: &FoundGeneration) -> Result<(), BufferError> {
    let mut by_lsn: Vec<&RecordEntry> = from.scan.records.iter().collect();
    by_lsn.sort_by_key(|record| record.at.lsn);
    let mut rest = by_lsn.as_slice();
    for (stamp, _) in from.scan.batches.values() {
        let last_lsn: Lsn = stamp.last_lsn;
        let (batch, later) = rest.split_at(rest.partition_point(|r| r.at.lsn <= last_lsn));
        rest = later;
        let records = batch.iter().map(|record| {
            let run = match record.header {
                RecordHeader::Hole { pages } => PageRun::Hole { pages },
                RecordHeader::Data { bytes } => {
                    PageRun::Data(from.stored.read(record.at, 0..bytes as usize)?)
                }
            };
            Ok(BufferRecord { at: record.at, run })
        });
        let records = records.collect::<Result<Vec<_>, BufferError>>()?;
        let batch = BufferBatch { last_lsn, records };
        new.commit(&batch).map_err(Failure::into_open)?;
    }
    Ok(())
}
