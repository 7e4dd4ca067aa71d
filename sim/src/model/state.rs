//! What the model knows: of one image, of disks, of processes, of requests under way.
//!
//! Must never: read the engine's state. All of this comes from what crosses a trait, and from what
//! clients are told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mvps_core::collector::expiry::ExpiryPolicy;
use mvps_core::format::manifest::Manifest;
use mvps_core::ids::{ImageId, Incarnation, Lsn, PageSize, TenureId};

use super::fencing::{Looks, heard_late};
use super::history::{BranchId, History};
use super::operation::Operation;
use super::published::{Published, Reader};
use super::retirement::OpenRead;
use super::timeliness::{Unlanded, upload_bytes_per_second};
use crate::journal::Journal;
use crate::plan::{Areas, Plan};

/// What is known of one image, and the oracles that judge by it.
pub struct Model {
    pub(super) image: ImageId,
    pub(super) state: Mutex<State>,
    pub(super) journal: Journal,
    pub(super) page_size: PageSize,
    /// What clients use of it; the rest is never written.
    pub(super) areas: Areas,
    /// How long a confirmation of the tenure lasts, on the slowest clock.
    pub(super) tenure_limit: Duration,
    /// An acknowledgement is heard within this time.
    pub(super) heard_late: Duration,
    /// What is committed is published within this time, on the slowest clock.
    pub(super) checkpoint_interval: Duration,
    /// What a server uploads in a second, at least.
    pub(super) upload_bytes_per_second: u64,
    /// What landed is read back whole one time in this many.
    pub(super) content_checks: u64,
}

/// A machine's disk, as far as the model cares.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// Which disk it is: a lost buffer store is followed by another.
    pub(super) instance: u64,
    /// The history of what it holds.
    pub(super) branch: Option<BranchId>,
    /// The last commit in it.
    pub(super) committed: Lsn,
    /// Commits up to here survive a power cut.
    pub(super) synced: Lsn,
    /// Of a copy: how often its history had lost commits when it was made.
    pub(super) cuts: usize,
    /// The last commit in it when it was opened last.
    pub(super) recovered: Lsn,
    /// Since its last opening there was a power cut.
    pub(super) power_cut: bool,
    /// It holds another image's data.
    pub(super) foreign: bool,
    /// Since its last opening an old copy took its place.
    pub(super) rolled_back: bool,
    /// When its machine last went on after a pause, or a call found no room.
    pub(super) resumed: Option<Duration>,
    /// Its machine is paused.
    pub(super) paused: bool,
    /// Something struck it since it was opened last, and may have ended the image.
    pub(super) struck: bool,
    /// When it was opened last: the last LSN that the buffer store knows of.
    pub(super) knows: Lsn,
    /// How much content was in it then; `None` if it held no record.
    pub(super) held_bytes: Option<u64>,
    /// Which process opened it.
    pub(super) opened_by: Option<String>,
}

/// One process of a machine.
#[derive(Debug, Default)]
pub(super) struct Server {
    /// What its disk held when it started.
    pub(super) branch_at_start: Option<BranchId>,
    /// Which disk that was.
    pub(super) disk_at_start: u64,
    /// Its tenure: its time as the active writer.
    pub(super) tenure: Option<TenureId>,
    /// A client was told that it is fenced.
    pub(super) fenced: Option<Duration>,
    /// A rollback landed, and it may not have moved there yet: what it served before.
    pub(super) rolled_from: Option<BranchId>,
    /// It was asked to roll back, and has not answered.
    pub(super) rolling_back: bool,
    /// So many of its clients compare with an earlier version, which nothing holds.
    pub(super) comparing: usize,
    /// What it may know of its tenure.
    pub(super) looks: Looks,
    /// Its image is of no more use, or it closed it.
    pub(super) ended: bool,
    /// Commits that have not landed.
    pub(super) unlanded: VecDeque<Unlanded>,
    /// What they take.
    pub(super) unlanded_bytes: u64,
    /// Its own last publications, the last one last: what its views may read.
    pub(super) own: VecDeque<Arc<Manifest>>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) history: History,
    /// Tenures that landed, and whose history they continue.
    pub(super) tenures: BTreeMap<TenureId, BranchId>,
    /// Which disk's server began a tenure.
    pub(super) begun_by: BTreeMap<TenureId, u64>,
    /// Which process did.
    pub(super) begun_by_process: BTreeMap<TenureId, String>,
    pub(super) next_disk: u64,
    /// When a tenure was followed by another.
    pub(super) superseded: BTreeMap<TenureId, Duration>,
    pub(super) newest: Option<Arc<Manifest>>,
    pub(super) published: Published,
    pub(super) readers: BTreeMap<String, Reader>,
    /// Checksums of the data objects that landed, by key.
    pub(super) objects: BTreeMap<String, u64>,
    pub(super) landings: u64,
    /// Publications by its server of the newest tenure since its LSN rose.
    pub(super) idle_publications: u64,
    pub(super) disks: BTreeMap<String, Disk>,
    pub(super) servers: BTreeMap<String, Server>,
    pub(super) operations: BTreeMap<u64, Operation>,
    pub(super) next_operation: u64,
    /// Answered, and one that is not answered asked for the same.
    pub(super) answered_interchangeable: Vec<Operation>,
    /// Commits whose clients were told that a rollback took them back.
    pub(super) taken_back: Vec<(BranchId, Lsn)>,
    /// Somebody got damaged bytes from the store, or may get them from a disk.
    pub(super) damaged: bool,
    /// Until when a process had requests to the store that went wrong.
    pub(super) trouble: BTreeMap<String, Duration>,
    pub(super) open_reads: BTreeMap<u64, OpenRead>,
    pub(super) next_read: u64,
    /// The largest size that somebody was told, and of which life of the image.
    pub(super) size_told: Option<(Incarnation, u64)>,
    /// What collectors were told to keep.
    pub(super) policies: BTreeMap<String, ExpiryPolicy>,
}

impl Model {
    /// Nothing happened yet.
    #[must_use]
    pub fn new(journal: Journal, image: ImageId, plan: &Plan, content_checks: u64) -> Self {
        let slowest = |duration: Duration| {
            let fast = u128::from(1_000_000 - plan.drift_ppm);
            let micros = (duration.as_micros() * 1_000_000).div_ceil(fast);
            Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX / 4))
        };
        Self {
            image,
            state: Mutex::default(),
            journal,
            page_size: plan.page_size,
            areas: plan.areas.clone(),
            tenure_limit: slowest(plan.config.tenure_confirmed_for),
            heard_late: heard_late(plan.over_nbd),
            checkpoint_interval: slowest(plan.config.checkpoint_interval),
            upload_bytes_per_second: upload_bytes_per_second(&plan.config),
            content_checks,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
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
    pub(super) fn new(next: &mut u64) -> Self {
        *next += 1;
        Self {
            instance: *next,
            ..Self::default()
        }
    }
}

impl State {
    pub(super) fn disk(&mut self, server: &str) -> &mut Disk {
        let next = &mut self.next_disk;
        let disk = self.disks.entry(machine_of(server).to_owned());
        disk.or_insert_with(|| Disk::new(next))
    }

    /// The branch that `server` commits to and reads from.
    pub(super) fn branch_of(&mut self, server: &str) -> Option<BranchId> {
        self.disk(server).branch
    }
}
