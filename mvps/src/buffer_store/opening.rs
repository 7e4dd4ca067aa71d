//! Opens the databases of a store, and makes a store where there is none.
//!
//! The active database is opened first: it says which earlier ones are needed, and where each of
//! them ends ([`switch`](super::switch)). A store is refused if one of these is missing, and if its
//! generations do not follow each other. What is not needed is removed, last of all.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Weak};

use mvps_core::env::BufferError;
use mvps_core::ids::{Generation, Lsn};

use super::active::{ActiveDatabase, Beginning, EmptyDatabase};
use super::database::{Found, FoundGeneration, OpenDatabase};
use super::databases::Databases;
use super::errors::{Failure, io_error};
use super::files::{self, DatabaseDirectory, DatabaseNumber, DirectoryLock, Layout, SyncedFile};
use super::meta::Retired;
use super::opened::Opened;
use super::record::Seed;
use super::sync::{JournalSync, Journals};
use super::{recovery, rewrite};

/// The first generation of a new store.
const FIRST_GENERATION: Generation = Generation(1);

/// Locks and opens the store, making it if there is none. `earlier` is the lock that this process
/// took last, `generations_max` how many generations a database takes.
pub fn open_or_create(
    layout: &Layout,
    seed: Seed,
    earlier: &Weak<DirectoryLock>,
    generations_max: u64,
) -> Result<Opened, BufferError> {
    let failed = io_error(&layout.image);
    fs::create_dir_all(&layout.image).map_err(&failed)?;
    let lock = Arc::new(DirectoryLock::take(layout, earlier)?);
    rewrite::finish(layout)?;
    if !fs::exists(layout.store()).map_err(&failed)? {
        create(layout, seed, &lock)?;
    }
    if fs::exists(layout.sync_failed()).map_err(&failed)? {
        tracing::warn!(
            store = %layout.image.display(),
            "a sync failed before: writing the buffered data anew"
        );
        let opened = open(layout, seed, &lock, generations_max, Trust::Copy)?;
        rewrite::rewrite(layout, seed, &lock, opened)?;
    }
    let opened = open(layout, seed, &lock, generations_max, Trust::Keep)?;
    remove_unneeded(layout, &opened.databases);
    Ok(opened)
}

/// Makes a store where there is none, or where making one was interrupted.
fn create(layout: &Layout, seed: Seed, lock: &Arc<DirectoryLock>) -> Result<(), BufferError> {
    let failed = io_error(&layout.image);
    for number in layout.databases().map_err(&failed)? {
        let directory = layout.database(number);
        // The file `synced` is made after the file `store`, and so is every later database.
        let failed = io_error(&directory);
        let used = number != DatabaseNumber::FIRST
            || SyncedFile::read(&directory).map_err(&failed)? > 0
            || files::says_complete(&directory).map_err(&failed)?;
        if used {
            return Err(BufferError::Corrupt {
                reason: format!("{} is missing", layout.store().display()),
            });
        }
    }
    let first = DatabaseNumber::FIRST;
    let empty = EmptyDatabase::make(layout, first, lock, seed, FIRST_GENERATION);
    let beginning = Beginning::default();
    let made = empty.and_then(|empty| empty.begin(beginning));
    // Dropping it syncs the journal.
    drop(made.map_err(Failure::into_open)?);
    files::sync_directory(&layout.database(first)).map_err(&failed)?;
    if let Some(root) = layout.image.parent() {
        files::sync_directory(root).map_err(&failed)?;
    }
    files::write_durably(&layout.store(), files::STORE_FORMAT).map_err(&failed)
}

fn open(
    layout: &Layout,
    seed: Seed,
    lock: &Arc<DirectoryLock>,
    generations_max: u64,
    trust: Trust,
) -> Result<Opened, BufferError> {
    let failed = io_error(&layout.image);
    let mut newest = DatabaseNumber::FIRST;
    for number in layout.databases().map_err(&failed)? {
        if layout.is_complete(number).map_err(&failed)? {
            newest = newest.max(number);
        }
    }
    let mut journals = Journals::default();
    let opening = Opening {
        layout,
        seed,
        lock,
        trust,
    };
    let (active, mut found) = opening.database(newest, None, &mut journals)?;
    let mut retired = BTreeMap::new();
    let mut generations = Vec::new();
    for (number, known) in &found.earlier {
        let (database, found) = opening.database(*number, Some(known), &mut journals)?;
        retired.insert(*number, database);
        generations.extend(found.generations);
    }
    let active = ActiveDatabase::resume(active, &found);
    generations.append(&mut found.generations);
    check_order(&generations, &found.earlier).map_err(|what| BufferError::Corrupt {
        reason: format!("{}: {what}", layout.image.display()),
    })?;
    found.generations = generations;
    Ok(Opened {
        databases: Databases::new(active, retired, generations_max),
        journals,
        found,
    })
}

/// What becomes of what is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// It is the store, and is synced.
    Keep,
    /// It is copied. After a failed sync the disk may lack what is read, and another sync would
    /// succeed: nothing may say then that it is synced, or a power cut within the copying would make
    /// of a tail that was lost one that must not be lost.
    Copy,
}

struct Opening<'a> {
    layout: &'a Layout,
    seed: Seed,
    lock: &'a Arc<DirectoryLock>,
    trust: Trust,
}

impl Opening<'_> {
    /// Opens one database and, if it is to be kept, syncs it. `retired` is what the active one knows of it.
    fn database(
        &self,
        number: DatabaseNumber,
        retired: Option<&Retired>,
        journals: &mut Journals,
    ) -> Result<(OpenDatabase, Found), BufferError> {
        let directory = self.layout.database(number);
        let failed = io_error(&directory);
        if !fs::exists(directory.join("version")).map_err(&failed)?
            || !self.layout.is_complete(number).map_err(&failed)?
        {
            return Err(BufferError::Corrupt {
                reason: format!("{} is missing", directory.display()),
            });
        }
        if retired.is_none() && number != DatabaseNumber::FIRST {
            // Whoever made it may have been killed before that was synced. What is committed from now
            // on is worth nothing if a power cut takes it back.
            files::complete(&directory).map_err(&failed)?;
        }
        let known = retired.map_or(0, |retired| retired.ordinal);
        let synced = SyncedFile::read(&directory).map_err(&failed)?.max(known);
        if let Some(cut) = recovery::check_journals(&directory, self.seed, synced)? {
            tracing::warn!(
                journal = %cut.journal.display(),
                offset = cut.offset,
                bytes = cut.bytes,
                kept = %cut.kept.display(),
                "cut an unsynced, torn tail off the journal"
            );
        }
        let held = DatabaseDirectory::new(self.layout, number, Arc::clone(self.lock));
        let (database, found) = OpenDatabase::open(Arc::new(held), self.seed, synced, retired)?;
        let mut journal =
            JournalSync::open(directory.clone(), database.progress()).map_err(&failed)?;
        if self.trust == Trust::Keep {
            journal.sync().map_err(&failed)?;
        }
        journal.count_active();
        database.measure(journal.active_file_bytes());
        journals.insert(number, journal);
        Ok((database, found))
    }
}

/// Checks that generations ascend, over all databases, and that each begins where the one before it
/// ends, as far as that is still there.
fn check_order(
    generations: &[FoundGeneration],
    earlier: &BTreeMap<DatabaseNumber, Retired>,
) -> Result<(), String> {
    // Where generations end, also those that were dropped, as far as it is known.
    let known = earlier.values().map(|retired| (retired.last, retired.end));
    let mut ends: BTreeMap<Generation, Lsn> = known.collect();
    let number = |generation: &FoundGeneration| generation.stored.generation;
    ends.extend(generations.iter().map(|it| (number(it), it.end)));
    if !generations.is_sorted_by(|a, b| number(a) < number(b)) {
        return Err("generations are not in the order of their databases".to_owned());
    }
    for generation in generations {
        let Some((before, end)) = ends.range(..number(generation)).next_back() else {
            continue;
        };
        let start = generation.start;
        let follows = before.next() == number(generation);
        if (follows && *end != start) || *end > start {
            let number = number(generation);
            return Err(format!(
                "generation {number} begins behind LSN {start}, generation {before} ends at {end}"
            ));
        }
    }
    Ok(())
}

/// Removes databases that are not needed: such as were being made, and such as were left behind.
fn remove_unneeded(layout: &Layout, databases: &Databases) {
    let needed: Vec<_> = databases.all().map(OpenDatabase::number).collect();
    for number in layout.databases().unwrap_or_default() {
        let directory = layout.database(number);
        if !needed.contains(&number)
            && let Err(error) = fs::remove_dir_all(&directory)
        {
            let directory = directory.display();
            tracing::warn!(%directory, %error, "a database that nobody needs was not removed");
        }
    }
}
