//! The database that takes commits, and how one becomes it.
//!
//! Making a database takes many syncs, so it is made in advance, as an [`EmptyDatabase`]. What it
//! begins with is written when the store goes over to it ([`switch`](super::switch)).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use fjall::Keyspace;
use mvps_core::env::BufferBatch;
use mvps_core::ids::{Generation, Lsn};

use super::database::{Found, OpenDatabase};
use super::errors::{Failure, write_error};
use super::files::{self, DatabaseDirectory, DatabaseNumber, DirectoryLock, Layout};
use super::generation::StoredGeneration;
use super::meta::{Bounds, KEY_METADATA, KEY_RETIRED, Retired, earlier_key, generation_key};
use super::record::Seed;

/// A database that was made and begins with nothing yet.
pub struct EmptyDatabase {
    keyspace: Keyspace,
    database: OpenDatabase,
    first: Generation,
}

/// What a database has to begin with.
#[derive(Debug, Default)]
pub struct Beginning {
    /// The last LSN before its first generation.
    pub start: Lsn,
    /// The engine's metadata.
    pub metadata: Option<Bytes>,
    /// The earlier databases that are needed.
    pub earlier: BTreeMap<DatabaseNumber, Retired>,
}

impl EmptyDatabase {
    /// Makes database `number` for generations from `first` on. Its directory and everything in
    /// it survives a power cut. What an interrupted attempt left there is removed.
    ///
    /// # Errors
    /// Also if there is a database that counts.
    pub fn make(
        layout: &Layout,
        number: DatabaseNumber,
        lock: &Arc<DirectoryLock>,
        seed: Seed,
        first: Generation,
    ) -> Result<Self, Failure> {
        let directory = DatabaseDirectory::new(layout, number, Arc::clone(lock));
        let directory = Arc::new(directory);
        if files::says_complete(directory.path())? {
            let path = directory.path().display();
            return Err(Failure::Poisoned(format!("{path} is there already")));
        }
        match fs::remove_dir_all(directory.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let database = OpenDatabase::make(Arc::clone(&directory), seed).map_err(write_error)?;
        let keyspace = database.make_keyspace(first).map_err(write_error)?;
        files::sync_directory(directory.path())?;
        files::sync_directory(&layout.image)?;
        Ok(Self {
            keyspace,
            database,
            first,
        })
    }

    /// Writes what it begins with, in one batch, which is not synced yet.
    pub fn begin(self, beginning: Beginning) -> Result<ActiveDatabase, Failure> {
        let Self {
            keyspace,
            mut database,
            first,
        } = self;
        let Beginning {
            start,
            metadata,
            earlier,
        } = beginning;
        let bounds = Bounds { start, end: None };
        let mut entries = vec![(generation_key(first), Some(bounds.encode()))];
        entries.extend(metadata.map(|it| (KEY_METADATA.to_vec(), Some(it.to_vec()))));
        let known = earlier.iter();
        entries.extend(known.map(|(number, it)| (earlier_key(*number), Some(it.encode()))));
        database.write_meta(entries)?;
        let active = database.insert(first, keyspace);
        Ok(ActiveDatabase {
            next: None,
            active,
            start,
            previous_lsn: start,
            earlier,
            database,
        })
    }
}

/// The database that takes commits.
pub struct ActiveDatabase {
    /// The keyspace of the generation after the active one, if it was made in advance.
    next: Option<Keyspace>,
    active: Arc<StoredGeneration>,
    /// The last LSN before the active generation.
    start: Lsn,
    previous_lsn: Lsn,
    earlier: BTreeMap<DatabaseNumber, Retired>,
    database: OpenDatabase,
}

impl ActiveDatabase {
    /// Goes on with a database that was opened as the active one.
    ///
    /// # Panics
    /// If it has no generation, which opening refuses.
    pub fn resume(database: OpenDatabase, found: &Found) -> Self {
        let last = found.generations.last();
        let last = last.expect("an active database has a generation");
        Self {
            next: None,
            active: Arc::clone(&last.stored),
            start: last.start,
            previous_lsn: last.end,
            earlier: found.earlier.clone(),
            database,
        }
    }

    /// What it has in common with retired ones.
    pub fn database(&self) -> &OpenDatabase {
        &self.database
    }

    /// The same, to change it.
    pub fn database_mut(&mut self) -> &mut OpenDatabase {
        &mut self.database
    }

    /// The generation that takes the next commits.
    pub fn active(&self) -> &Arc<StoredGeneration> {
        &self.active
    }

    /// Whether it takes another generation, when it takes `generations_max` in all, dropped ones
    /// included.
    pub fn takes_another(&self, generations_max: u64) -> bool {
        // fjall numbers its keyspaces in the order in which they are made, also after it was opened
        // again, and `meta` is 1.
        self.next.is_some() || self.active.keyspace().id() <= generations_max
    }

    /// Writes a batch to the active generation.
    pub fn commit(&mut self, batch: &BufferBatch) -> Result<(), Failure> {
        let previous_lsn = self.previous_lsn;
        assert!(
            batch.last_lsn > previous_lsn,
            "batches come in the order of their LSNs: {} after {previous_lsn}",
            batch.last_lsn,
        );
        let keyspace = self.active.keyspace();
        self.database.write_records(keyspace, batch, previous_lsn)?;
        self.previous_lsn = batch.last_lsn;
        Ok(())
    }

    /// Replaces the metadata.
    pub fn put_metadata(&mut self, metadata: &[u8]) -> Result<(), Failure> {
        let entry = (KEY_METADATA.to_vec(), Some(metadata.to_vec()));
        self.database.write_meta(vec![entry])
    }

    /// Makes the keyspace of the next generation, if it is not there yet.
    pub fn prepare_next(&mut self) -> Result<(), Failure> {
        if self.next.is_none() {
            let made = self.database.make_keyspace(self.active.generation.next());
            self.next = Some(made.map_err(write_error)?);
        }
        Ok(())
    }

    /// Seals the active generation and returns it.
    pub fn seal(&mut self) -> Result<Arc<StoredGeneration>, Failure> {
        self.prepare_next()?;
        let next = self.active.generation.next();
        let keyspace = self.next.take().expect("the next keyspace was just made");
        self.begin_generation(next, keyspace, self.previous_lsn)
    }

    /// Seals the active generation, as [`ActiveDatabase::seal`] does, and begins another than the
    /// next one, behind another LSN.
    pub fn seal_and_skip(&mut self, to: Generation, start: Lsn) -> Result<(), Failure> {
        let keyspace = self.database.make_keyspace(to).map_err(write_error)?;
        self.begin_generation(to, keyspace, start)?;
        Ok(())
    }

    fn sealed_bounds(&self) -> Bounds {
        Bounds {
            start: self.start,
            end: Some(self.previous_lsn),
        }
    }

    fn begin_generation(
        &mut self,
        next: Generation,
        keyspace: Keyspace,
        start: Lsn,
    ) -> Result<Arc<StoredGeneration>, Failure> {
        let sealed = self.sealed_bounds();
        let opened = Bounds { start, end: None };
        let active = self.active.generation;
        self.database.write_meta(vec![
            (generation_key(active), Some(sealed.encode())),
            (generation_key(next), Some(opened.encode())),
        ])?;
        let stored = self.database.insert(next, keyspace);
        self.start = start;
        self.previous_lsn = start;
        Ok(std::mem::replace(&mut self.active, stored))
    }

    /// What the database after this one has to begin with. Everything written has to be synced
    /// before.
    pub fn succession(&self) -> Result<Beginning, Failure> {
        let retired = Retired {
            last: self.active.generation,
            end: self.previous_lsn,
            ordinal: self.database.ordinal(),
        };
        let mut earlier = self.earlier.clone();
        earlier.insert(self.database.number(), retired);
        Ok(Beginning {
            start: self.previous_lsn,
            metadata: self.database.metadata()?,
            earlier,
        })
    }

    /// Says in `meta` that the active generation is sealed, without beginning another, and that
    /// this database is retired: the next one has what follows.
    pub fn note_end(&mut self) -> Result<(), Failure> {
        let key = generation_key(self.active.generation);
        let sealed = self.sealed_bounds().encode();
        let retired = (KEY_RETIRED.to_vec(), Some(Vec::new()));
        self.database.write_meta(vec![(key, Some(sealed)), retired])
    }

    /// What is left when it takes no more commits, and the generation that was active.
    pub fn retire(self) -> (OpenDatabase, Arc<StoredGeneration>) {
        (self.database, self.active)
    }

    /// Says in `meta` that an earlier database is no more.
    pub fn forget_database(&mut self, number: DatabaseNumber) -> Result<(), Failure> {
        let entry = (earlier_key(number), None);
        self.database.write_meta(vec![entry])?;
        self.earlier.remove(&number);
        Ok(())
    }
}
