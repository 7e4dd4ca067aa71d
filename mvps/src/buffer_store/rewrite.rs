//! Writes a store's data anew, to other files.
//!
//! After a failed sync the system may hold pages that it believes written and that are not: what a
//! later process reads back is right until the next power cut, whatever a later sync says. So the
//! first opening after a failed sync copies everything, from all databases, into a new one, and
//! syncs that, before anything is acknowledged. The new one has the highest number and needs no
//! earlier one, so once it counts it is the store, and the others are removed as not needed.
//! Interrupted before, this begins again from the same data; interrupted behind, with the same data
//! in the new database.

use std::fs;
use std::io;
use std::sync::Arc;

use mvps_core::env::{
    BufferBatch, BufferError, BufferHandle, BufferRecord, PageRun, RecordEntry, RecordHeader,
};
use mvps_core::ids::Lsn;

use super::active::{ActiveDatabase, Beginning, EmptyDatabase};
use super::database::{FoundGeneration, OpenDatabase};
use super::errors::{Failure, io_error};
use super::files::{self, DatabaseNumber, DirectoryLock, Layout};
use super::opened::Opened;
use super::record::Seed;
use super::sync::JournalSync;

/// Ends what earlier versions left of a rewriting: puts the rewritten database in place if it is
/// complete, and removes it if not.
pub fn finish(layout: &Layout) -> Result<(), BufferError> {
    let rewritten = layout.rewritten();
    let finish = || -> io::Result<()> {
        if !fs::exists(&rewritten)? {
            return Ok(());
        }
        if !files::says_complete(&rewritten)? {
            return fs::remove_dir_all(&rewritten);
        }
        let number = unused(layout)?;
        fs::rename(&rewritten, layout.database(number))?;
        files::sync_directory(&layout.image)?;
        forget_failure(layout)
    };
    finish().map_err(io_error(&rewritten))
}

/// A number above all that are in use.
fn unused(layout: &Layout) -> io::Result<DatabaseNumber> {
    let newest = layout.databases()?.pop().unwrap_or(DatabaseNumber::FIRST);
    newest.next().ok_or_else(no_more_numbers)
}

fn no_more_numbers() -> io::Error {
    io::Error::other("no more numbers for databases")
}

fn forget_failure(layout: &Layout) -> io::Result<()> {
    if fs::exists(layout.sync_failed())? {
        fs::remove_file(layout.sync_failed())?;
    }
    files::sync_directory(&layout.image)
}

/// Copies what was `opened` to a new database, which is the store from then on. The caller opens it
/// from scratch.
pub fn rewrite(
    layout: &Layout,
    seed: Seed,
    lock: &Arc<DirectoryLock>,
    opened: Opened,
) -> Result<(), BufferError> {
    let failed = io_error(&layout.image);
    // The same at each attempt, so that what an interrupted one left is removed before more is written.
    let needed = opened.databases.all().map(OpenDatabase::number).max();
    let number = needed.and_then(DatabaseNumber::next);
    let number = number.ok_or_else(|| failed(no_more_numbers()))?;
    let found = &opened.found;
    let first = found.generations.first();
    let first = first.expect("a database has a generation");
    let beginning = Beginning {
        start: first.start,
        metadata: found.metadata.clone(),
        ..Beginning::default()
    };
    let empty = EmptyDatabase::make(layout, number, lock, seed, first.stored.generation);
    let new = empty.and_then(|empty| empty.begin(beginning));
    let mut new = new.map_err(Failure::into_open)?;
    for (position, generation) in found.generations.iter().enumerate() {
        if position > 0 {
            new.seal_and_skip(generation.stored.generation, generation.start)
                .map_err(Failure::into_open)?;
        }
        copy_generation(&mut new, generation)?;
    }
    let database = new.database();
    let directory = database.directory().path().to_owned();
    let sync = JournalSync::open(directory.clone(), database.progress());
    let mut sync = sync.map_err(&failed)?;
    sync.sync().map_err(&failed)?;
    drop((sync, new, opened));
    files::complete(&directory).map_err(&failed)?;
    forget_failure(layout).map_err(&failed)
}

fn copy_generation(new: &mut ActiveDatabase, from: &FoundGeneration) -> Result<(), BufferError> {
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
