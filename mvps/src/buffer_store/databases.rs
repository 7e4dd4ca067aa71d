//! The databases of a store: the active one, and retired ones that still have generations.
//!
//! fjall's own keyspace 0 grows with the square of the generations ever made in a database, so a
//! database takes [`GENERATIONS_MAX`] of them; the next begins in a new one. Commits and metadata
//! go to the active database, drops and spills to whichever has the generation. A retired database
//! goes, as a whole, with its last generation.

use std::collections::BTreeMap;
use std::sync::Arc;

use mvps_core::env::BufferBatch;
use mvps_core::ids::Generation;

use super::active::{ActiveDatabase, EmptyDatabase};
use super::database::OpenDatabase;
use super::errors::Failure;
use super::files::{DatabaseNumber, DirectoryLock, Layout};
use super::generation::StoredGeneration;
use super::record::Seed;
use super::spill::Spill;

/// How many generations a database takes. Its keyspace 0 then has 17 MB (four times that with twice
/// as many); going over to the next database costs a few syncs.
pub const GENERATIONS_MAX: u64 = 128;

/// All databases of a store.
pub struct Databases {
    active: ActiveDatabase,
    /// Those that still have generations, and no active one.
    retired: BTreeMap<DatabaseNumber, OpenDatabase>,
    generations_max: u64,
}

/// What is needed to make the next database.
pub struct Plan {
    number: DatabaseNumber,
    first: Generation,
    lock: Arc<DirectoryLock>,
}

impl Plan {
    /// Makes it; takes long.
    pub fn make(&self, layout: &Layout, seed: Seed) -> Result<EmptyDatabase, Failure> {
        EmptyDatabase::make(layout, self.number, &self.lock, seed, self.first)
    }
}

/// What the first half of a drop said is no more.
pub enum Forgotten {
    /// A generation.
    Generation(DatabaseNumber, Arc<StoredGeneration>),
    /// A retired database, with its last generation.
    Database(Box<OpenDatabase>),
}

impl Databases {
    /// The databases as they were opened. A database takes `generations_max` generations.
    pub fn new(
        active: ActiveDatabase,
        retired: BTreeMap<DatabaseNumber, OpenDatabase>,
        generations_max: u64,
    ) -> Self {
        Self {
            active,
            retired,
            generations_max,
        }
    }

    /// The active database.
    pub fn active(&self) -> &ActiveDatabase {
        &self.active
    }

    /// What keeps the store locked.
    pub fn lock(&self) -> &Arc<DirectoryLock> {
        self.active.database().directory().lock()
    }

    /// Every database, with its number.
    pub fn all(&self) -> impl Iterator<Item = &OpenDatabase> {
        let active = std::iter::once(self.active.database());
        self.retired.values().chain(active)
    }

    /// A database, if it is still there.
    pub fn get_mut(&mut self, number: DatabaseNumber) -> Option<&mut OpenDatabase> {
        if self.active.database().number() == number {
            return Some(self.active.database_mut());
        }
        self.retired.get_mut(&number)
    }

    /// Writes a batch to the active generation.
    pub fn commit(&mut self, batch: &BufferBatch) -> Result<(), Failure> {
        self.active.commit(batch)
    }

    /// Replaces the metadata.
    pub fn put_metadata(&mut self, metadata: &[u8]) -> Result<(), Failure> {
        self.active.put_metadata(metadata)
    }

    /// Makes the keyspace of the next generation in advance; or, if the active database is to have
    /// no more of them, says which database to make in advance.
    pub fn prepare_next(&mut self) -> Result<Option<Plan>, Failure> {
        if self.active.takes_another(self.generations_max) {
            self.active.prepare_next()?;
            return Ok(None);
        }
        let number = self.active.database().number().next();
        let no_more = || Failure::Poisoned("no more numbers for databases".to_owned());
        Ok(Some(Plan {
            number: number.ok_or_else(no_more)?,
            first: self.active.active().generation.next(),
            lock: Arc::clone(self.lock()),
        }))
    }

    /// Seals the active generation, in the active database.
    pub fn seal(&mut self) -> Result<Arc<StoredGeneration>, Failure> {
        self.active.seal()
    }

    /// A sealed generation, and which database has it.
    ///
    /// # Panics
    /// If it is not there or not sealed: only the engine names generations.
    pub fn sealed(&self, generation: Generation) -> (DatabaseNumber, Arc<StoredGeneration>) {
        assert!(
            generation < self.active.active().generation,
            "generation {generation} is not sealed"
        );
        let of = |database: &OpenDatabase| {
            let stored = database.generations().get(&generation)?;
            Some((database.number(), Arc::clone(stored)))
        };
        let found = self.all().find_map(of);
        found.expect("a generation is dropped once")
    }

    /// The first half of dropping: says that the generation is no more, or, if a retired database
    /// has no other, that the database is no more. It has to be synced before the second half.
    pub fn forget(&mut self, generation: Generation) -> Result<Forgotten, Failure> {
        let (number, stored) = self.sealed(generation);
        match self.retired.get_mut(&number) {
            Some(retired) if retired.generations().len() > 1 => retired.forget(&stored)?,
            Some(_) => {
                self.active.forget_database(number)?;
                let retired = self.retired.remove(&number);
                let retired = retired.expect("it was just found");
                return Ok(Forgotten::Database(Box::new(retired)));
            }
            None => self.active.database_mut().forget(&stored)?,
        }
        Ok(Forgotten::Generation(number, stored))
    }

    /// The second half of dropping a generation. If its database went meanwhile, it took the
    /// generation along.
    pub fn delete(
        &mut self,
        number: DatabaseNumber,
        stored: &StoredGeneration,
    ) -> Result<(), Failure> {
        match self.get_mut(number) {
            Some(database) => database.delete(stored),
            None => {
                stored.mark_deleted();
                Ok(())
            }
        }
    }

    /// Hands a sealed generation to fjall's workers, to be written to tables.
    pub fn start_spill(&mut self, generation: Generation) -> Result<Spill, Failure> {
        let (number, stored) = self.sealed(generation);
        let database = self.get_mut(number).expect("it has the generation");
        database.start_spill(&stored)
    }

    /// Goes over to `next`, which counts on the disk from now on. Returns the generation that this
    /// seals.
    pub fn take_over(&mut self, next: ActiveDatabase) -> Result<Arc<StoredGeneration>, Failure> {
        self.active.note_end()?;
        let old = std::mem::replace(&mut self.active, next);
        let (old, sealed) = old.retire();
        self.retired.insert(old.number(), old);
        Ok(sealed)
    }
}
