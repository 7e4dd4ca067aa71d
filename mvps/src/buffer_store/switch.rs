//! Going over to a new database, at a seal.
//!
//! Everything that a power cut or a kill may interrupt, in its order:
//!
//! 1. The next database is made in advance, with its first keyspace, and synced with its entry.
//!    *It does not count yet*, whatever is in it: the next opening removes it.
//! 2. The active database is synced: all that was committed to it. (Most of it before, while
//!    commits go on; the rest under the gate.) Nothing else changes.
//! 3. What the next database begins with is written to it and synced: its generation, beginning
//!    behind the last LSN; the metadata; and which earlier databases are needed, each with its last
//!    generation, last LSN and last ordinal, all of them synced. It does not count yet.
//! 4. The file `complete` is made in the next database, and synced. *Now it counts*, and the other
//!    one is retired. Both hold the same until the gate opens, so it does not matter which of them a
//!    power cut in here leaves as the active one.
//! 5. The retired one notes that its last generation is sealed. This is not synced, and need not
//!    be: the next database knows where it ended. It serves to refuse a store whose newest database
//!    was lost as a whole, instead of opening what came before; and earlier versions, which know of
//!    one database only, refuse it for the same reason.
//!
//! So a retired database never holds a commit that is not synced. What may be missing at its end
//! after a power cut is what was written since: the note of step 5, marks of journals rotated, and
//! words of drops, whose generations then come back whole. Its tail may be cut there and nowhere
//! before, because the active database knows its last ordinal of step 2.
//!
//! A retired database is needed for as long as it has a generation. The drop of its last one is a
//! word in the active database, synced, that the earlier one is no more. Then its directory goes,
//! with the last handle; and if that does not happen, at the next opening.

use std::io;
use std::sync::Arc;

use super::active::{ActiveDatabase, EmptyDatabase};
use super::databases::Databases;
use super::errors::Failure;
use super::files;
use super::generation::StoredGeneration;
use super::sync::{JournalSync, Journals};

/// Steps 3 to 5. `databases` were synced just now, under the gate. `sync_failed` is told if the disk did
/// not take the file `complete`, and says what that means: the next opening may see the file although
/// a power cut would take it away. What it did not take before then is of a database that does not count.
///
/// Returns the generation that this seals.
pub fn switch(
    databases: &mut Databases,
    journals: &mut Journals,
    next: EmptyDatabase,
    sync_failed: impl FnOnce(io::Error) -> Failure,
) -> Result<Arc<StoredGeneration>, Failure> {
    let (next, journal) = begin(databases, next)?;
    let number = next.database().number();
    files::complete(next.database().directory().path()).map_err(sync_failed)?;
    journals.insert(number, journal);
    databases.take_over(next)
}

/// Step 3.
pub fn begin(
    databases: &Databases,
    next: EmptyDatabase,
) -> Result<(ActiveDatabase, JournalSync), Failure> {
    let next = next.begin(databases.active().succession()?)?;
    let database = next.database();
    let directory = database.directory().path().to_owned();
    let mut journal = JournalSync::open(directory, database.progress())?;
    journal.sync()?;
    journal.count_active();
    Ok((next, journal))
}
