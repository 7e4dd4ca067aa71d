//! What must be true, kept outside the nodes.
//!
//! The model sees what crosses a trait (a buffer batch, a sync, an object that lands) at the
//! instant it happens, and what clients are told. It keeps the total order of commits of every
//! history, and checks each event against it:
//! - [`operations`]: a commit is exactly one request, whole; what is acknowledged holds;
//!   `interchangeable`: which of those that asked for the same.
//! - [`reads`]: what a read returns is what some position in its window holds.
//! - [`servers`]: what an opened image must hold; what a disk may drop.
//! - [`landing`]: what may land in the object store; `tenures`: whose history it continues.
//! - `deletion`: what may be deleted from it; `readers`: who reads what is published.
//!
//! There is one for each image; [`images`] knows them all.

pub mod content;
mod deletion;
pub mod history;
pub mod images;
mod interchangeable;
pub mod landing;
pub mod operations;
mod readers;
pub mod reads;
pub mod servers;
mod tenures;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mvps_core::format::manifest::Manifest;
use mvps_core::ids::{ImageId, Lsn, PageSize, TenureId};

use self::history::{BranchId, History};
use self::operations::Operation;
use crate::journal::Journal;

/// What is known of one image, and the oracles that judge by it.
pub struct Model {
    image: ImageId,
    state: Mutex<State>,
    journal: Journal,
    page_size: PageSize,
    pages: u64,
    tenure_limit: Duration,
    /// What landed is read back whole one time in this many.
    content_checks: u64,
}

/// A machine's disk, as far as the model cares.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// Which disk it is: a lost buffer store is followed by another.
    instance: u64,
    /// The history of what it holds.
    branch: Option<BranchId>,
    /// The last commit in it.
    committed: Lsn,
    /// Commits up to here survive a power cut.
    synced: Lsn,
    /// Of a copy: how often its history had lost commits when it was made.
    cuts: usize,
    /// The last commit in it when it was opened last.
    recovered: Lsn,
    /// Since its last opening there was a power cut.
    power_cut: bool,
    /// It holds another image's data.
    foreign: bool,
    /// Since its last opening an old copy took its place.
    rolled_back: bool,
    /// When its machine last went on after a pause.
    resumed: Option<Duration>,
}

/// One process of a machine.
#[derive(Debug, Default)]
struct Server {
    /// What its disk held when it started.
    branch_at_start: Option<BranchId>,
    /// Which disk that was.
    disk_at_start: u64,
    /// Its time in office.
    tenure: Option<TenureId>,
    /// A client was told that it is fenced.
    fenced: Option<Duration>,
    /// A rollback landed, and it may not have moved there yet: what it served before.
    rolled_from: Option<BranchId>,
    /// It was asked to roll back, and has not answered.
    rolling_back: bool,
}

#[derive(Default)]
struct State {
    history: History,
    /// Tenures that landed, and whose history they continue.
    tenures: BTreeMap<TenureId, BranchId>,
    /// Which disk's server began a tenure.
    begun_by: BTreeMap<TenureId, u64>,
    next_disk: u64,
    /// When a tenure was followed by another.
    superseded: BTreeMap<TenureId, Duration>,
    newest: Option<Arc<Manifest>>,
    published: deletion::Published,
    readers: BTreeMap<String, readers::Reader>,
    /// Checksums of the data objects that landed, by key.
    objects: BTreeMap<String, u64>,
    landings: u64,
    /// Publications by its server of the newest tenure since its LSN rose.
    idle_publications: u64,
    disks: BTreeMap<String, Disk>,
    servers: BTreeMap<String, Server>,
    operations: BTreeMap<u64, Operation>,
    next_operation: u64,
    /// Answered, and one that is not answered asked for the same.
    answered_interchangeable: Vec<Operation>,
    /// Commits whose clients were told that a rollback took them back.
    taken_back: Vec<(BranchId, Lsn)>,
    /// Somebody got damaged bytes from the store, or may get them from a disk.
    damaged: bool,
    /// When a server's requests to the store last went wrong.
    trouble: BTreeMap<String, Duration>,
}

impl Model {
    /// Nothing happened yet.
    #[must_use]
    pub fn new(
        journal: Journal,
        image: ImageId,
        (page_size, pages): (PageSize, u64),
        tenure_limit: Duration,
        content_checks: u64,
    ) -> Self {
        Self {
            image,
            state: Mutex::default(),
            journal,
            page_size,
            pages,
            tenure_limit,
            content_checks,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A violated oracle panics under the lock, and ends the run.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The machine of a server.
#[must_use]
pub fn machine_of(server: &str) -> &str {
    server.split('/').next().unwrap_or(server)
}

impl Disk {
    /// A disk that no other is.
    fn new(next: &mut u64) -> Self {
        *next += 1;
        Self {
            instance: *next,
            ..Self::default()
        }
    }
}

impl State {
    fn disk(&mut self, server: &str) -> &mut Disk {
        let next = &mut self.next_disk;
        let disk = self.disks.entry(machine_of(server).to_owned());
        disk.or_insert_with(|| Disk::new(next))
    }

    /// The branch that `server` commits to and reads from.
    fn branch_of(&mut self, server: &str) -> Option<BranchId> {
        self.disk(server).branch
    }
}
