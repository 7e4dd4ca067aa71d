//! Syncs the journals through descriptors of our own.
//!
//! fjall's `persist` holds the journal's lock, so that no commit gets in while the disk works, and
//! it can return Ok although another thread's fsync of the same file failed a moment before. An own
//! descriptor, opened before the data was written, is told of every write-back error by the system.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::database::Progress;
use super::files::{self, DatabaseNumber, SyncedFile};

/// The journals of all databases of a store.
#[derive(Default)]
pub struct Journals {
    databases: BTreeMap<DatabaseNumber, JournalSync>,
}

impl Journals {
    /// Syncs `database` too from now on.
    pub fn insert(&mut self, number: DatabaseNumber, database: JournalSync) {
        self.databases.insert(number, database);
    }

    /// No more syncs `number`, whose directory may then go.
    pub fn remove(&mut self, number: DatabaseNumber) {
        self.databases.remove(&number);
    }

    /// The journals of one database.
    pub fn of(&mut self, number: DatabaseNumber) -> Option<&mut JournalSync> {
        self.databases.get_mut(&number)
    }

    /// Makes everything committed before this call, to any database, survive a power cut.
    ///
    /// # Errors
    /// As [`JournalSync::sync`].
    pub fn sync(&mut self) -> io::Result<()> {
        self.databases.values_mut().try_for_each(JournalSync::sync)
    }
}

/// The journals of a database that may hold unsynced batches.
pub struct JournalSync {
    database: PathBuf,
    /// Oldest first; never empty. The last one is the active journal, as far as we know.
    journals: Vec<(u64, File)>,
    synced_file: SyncedFile,
    progress: Arc<Progress>,
    /// How many of the next syncs fail, for tests of what happens then.
    #[cfg(test)]
    pub failures: u32,
}

impl JournalSync {
    /// Opens the active journal of `database`. The journals before it were synced when they were
    /// sealed.
    pub fn open(database: PathBuf, progress: Arc<Progress>) -> io::Result<Self> {
        let (number, path) = files::journals(&database)?
            .pop()
            .ok_or_else(|| io::Error::other("the database has no journal"))?;
        Ok(Self {
            journals: vec![(number, File::open(path)?)],
            synced_file: SyncedFile::open(&database)?,
            database,
            progress,
            #[cfg(test)]
            failures: 0,
        })
    }

    /// Opens journals that fjall has begun since.
    fn follow(&mut self) -> io::Result<()> {
        while let Some((number, _)) = self.journals.last() {
            let next = number + 1;
            match File::open(self.database.join(format!("{next}.jnl"))) {
                Ok(file) => self.journals.push((next, file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes everything committed before this call survive a power cut.
    ///
    /// # Errors
    /// If the system cannot promise that; then it never can again for these files.
    pub fn sync(&mut self) -> io::Result<()> {
        let target = self.progress.committed.load(Ordering::Acquire);
        if target <= self.progress.synced.load(Ordering::Acquire) {
            return Ok(());
        }
        #[cfg(test)]
        if self.failures > 0 {
            self.failures -= 1;
            return Err(io::Error::other("a failure that a test asked for"));
        }
        self.follow()?;
        for (_, journal) in &self.journals {
            journal.sync_data()?;
        }
        let sealed = self.journals.len() - 1;
        if sealed > 0 {
            self.journals.drain(..sealed);
            self.progress
                .active_journal_bytes
                .store(0, Ordering::Relaxed);
        }
        self.progress.synced.fetch_max(target, Ordering::AcqRel);
        self.synced_file.note(target)
    }

    /// Length of the active journal's file.
    pub fn active_file_bytes(&self) -> u64 {
        let metadata = self.journals.last().map(|(_, file)| file.metadata());
        metadata.and_then(Result::ok).map_or(0, |m| m.len())
    }

    /// Sets the measure of the active journal to what is in its file.
    pub fn count_active(&self) {
        let number = self.journals.last().map_or(0, |(number, _)| *number);
        let path = self.database.join(format!("{number}.jnl"));
        if let Ok(metadata) = fs::metadata(path) {
            // Blocks, not length: fjall makes journals 64 MiB long before it fills them.
            let used_bytes = &self.progress.active_journal_bytes;
            used_bytes.store(metadata.blocks() * 512, Ordering::Relaxed);
        }
    }
}
