//! What a plan says: the engine's configuration, the workload, and the faults of one seed.

use std::time::Duration;

use mvps_core::encryption::{ROOT_KEY_BYTES, RootKey, RootKeys};
use mvps_core::engine::EngineConfig;
use mvps_core::ids::PageSize;

use super::areas::Areas;
use super::focus::Focus;
use super::history::HistoryPlan;

/// After so many requests clients become slow: the rest of the seed is about servers.
pub const BUSY_OPERATIONS: u64 = 3000;

/// Environment variable that is `files` where machines have disks of files.
pub const DISK_VARIABLE: &str = "SIM_DISK";

/// Whether machines have disks of files.
pub(super) fn is_on_files() -> bool {
    std::env::var_os(DISK_VARIABLE).is_some_and(|it| it == "files")
}

/// How likely each fault of the object store is, per thousand requests.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreFaults {
    /// Not applied, and an error.
    pub refused: u64,
    /// Applied, and an error.
    pub reply_lost: u64,
    /// An error or no answer, and applied minutes or hours later.
    pub late: u64,
    /// Applied, answered, and applied again later.
    pub twice: u64,
    /// Never answered; applied or not.
    pub stalled: u64,
    /// SlowDown.
    pub slow_down: u64,
    /// A read is cut short.
    pub truncated: u64,
    /// A read comes back with one bit flipped.
    pub bit_flip: u64,
    /// A conditional create meets another one (409).
    pub conflict: u64,
    /// Takes seconds instead of milliseconds.
    pub slow: u64,
    /// A read takes a while, so that checkpoints overtake it.
    pub slow_reads: u64,
    /// A read begins to be answered, and never ends.
    pub body_stalled: u64,
    /// A read is answered with another object's bytes.
    pub wrong_object: u64,
    /// Some keys of a deletion are deleted.
    pub partial_delete: u64,
    /// A completed upload is answered with an error inside a 200.
    pub completion_fails: u64,
}

/// What kind of store it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreProfile {
    /// Bytes per second of one transfer.
    pub bandwidth: Option<u64>,
    /// It ignores `If-None-Match`: it must be refused.
    pub ignores_conditions: bool,
    /// Listings may be behind: outside the contract, so only wrong bytes and panics count.
    pub stale_listings: bool,
}

/// What may happen to servers, as weights of the driver's choices.
#[derive(Debug, Clone, Copy, Default)]
pub struct Events {
    /// The process is killed and started again.
    pub kill: u64,
    /// Power cut and start.
    pub power_cut: u64,
    /// Stopped in order and started again.
    pub restart: u64,
    /// Paused for longer than any time-out, then resumed.
    pub pause: u64,
    /// Another machine takes the image over, the first one alive, paused, cut off or dead.
    pub takeover: u64,
    /// The buffer store is lost, and taken over from.
    pub lose_buffer: u64,
    /// The buffer store is replaced by an old copy of itself.
    pub roll_back: u64,
    /// The buffer store of a fenced writer is adopted.
    pub adopt: u64,
    /// Nobody reaches the object store for minutes.
    pub outage: u64,
    /// The machine does not reach the object store for minutes.
    pub cut_off: u64,
    /// The wall clock jumps.
    pub clock_jump: u64,
    /// A sync fails, or the disk is full.
    pub buffer_fault: u64,
    /// A second server is started without a takeover, and must be refused.
    pub intruder: u64,
    /// The process stops dead at a call of its environment, and is ended.
    pub trip: u64,
    /// What the buffer store holds rots, or cannot be opened any more, or is another image's.
    pub rot: u64,
}

/// Weights of what clients do.
#[derive(Debug, Clone, Copy)]
pub struct Operations {
    /// Writes of whole pages.
    pub write: u64,
    /// Writes at any byte.
    pub unaligned: u64,
    /// Reads.
    pub read: u64,
    /// Trims.
    pub trim: u64,
    /// Write-zeroes.
    pub zero: u64,
    /// Flushes.
    pub flush: u64,
    /// Transactions.
    pub transaction: u64,
    /// Checkpoints on request.
    pub checkpoint: u64,
    /// Requests that are cancelled with their connection.
    pub revoke: u64,
}

/// Everything that a seed draws at its beginning.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// What the seed is about.
    pub focus: Focus,
    /// The image's page size.
    pub page_size: PageSize,
    /// How many pages clients use.
    pub pages: u64,
    /// Which pages of the image those are.
    pub areas: Areas,
    /// The engine's configuration.
    pub config: EngineConfig,
    /// Clients per server.
    pub clients: u64,
    /// Longest write in pages.
    pub write_pages_max: u64,
    /// Most writes per thousand that ask for durability.
    pub durable: u64,
    /// Of those, how many ask for the object store's.
    pub object_store: u64,
    /// Longest pause of a client between requests.
    pub think_max: Duration,
    /// What clients do.
    pub operations: Operations,
    /// Faults of the object store.
    pub store: StoreFaults,
    /// What kind of store it is.
    pub profile: StoreProfile,
    /// Uploads go in parts of this size.
    pub part_bytes: usize,
    /// Requests, per thousand, that ask where there is content, or fetch it early.
    pub looks: u64,
    /// Failures of a disk that are scripted at once, at most.
    pub disk_faults_max: u64,
    /// Processes, per thousand, that end with a power cut after they failed.
    pub failed_lose_power: u64,
    /// Rounds, per thousand, in which clients ask for nothing for as long as a checkpoint may take.
    pub silences: u64,
    /// What happens to servers.
    pub events: Events,
    /// How many things happen to servers.
    pub rounds: u64,
    /// Longest time between two of them.
    pub round_max: Duration,
    /// Clocks run fast or slow by up to this many parts per million.
    pub drift_ppm: u64,
    /// How long a buffer commit and a sync may take.
    pub disk_max: Duration,
    /// How many collectors expire old versions and delete what nothing reaches meanwhile.
    pub collectors: u64,
    /// Their longest pause.
    pub collector_pause_max: Duration,
    /// Clean stops, per thousand, that close the image while clients still use it.
    pub abrupt: u64,
    /// Longest pause within a transaction, once in a while: its view grows old.
    pub linger_max: Duration,
    /// Clients speak NBD, and do not call the engine.
    pub over_nbd: bool,
    /// Machines have disks of files, under the content log, instead of disks of records. Not drawn,
    /// but chosen with [`DISK_VARIABLE`].
    pub on_files: bool,
    /// Images without connections are closed after this long.
    pub idle_time: Duration,
    /// Connections that begin with hostile bytes on another one, per thousand.
    pub hostile: u64,
    /// Connections that are cut, per thousand.
    pub cuts: u64,
    /// How likely a client leaves its connection behind, as a weight beside 80.
    pub leaving: u64,
    /// Every server makes the image larger; clients use the first pages.
    pub grows: bool,
    /// Servers have a root key, so the image is encrypted.
    pub encrypted: bool,
    /// Snapshots, clones, rollbacks, and who reads them.
    pub history: HistoryPlan,
}

/// The root keys of every server. Who only looks has them too.
#[must_use]
pub fn root_keys() -> RootKeys {
    RootKeys::new(vec![root_key(0x5a), root_key(0xa5)])
}

/// The same, and what is wrapped is wrapped with the other one.
#[must_use]
pub fn root_keys_exchanged() -> RootKeys {
    RootKeys::new(vec![root_key(0xa5), root_key(0x5a)])
}

fn root_key(byte: u8) -> RootKey {
    RootKey::new([byte; ROOT_KEY_BYTES].into())
}

impl Plan {
    /// What servers are given.
    #[must_use]
    pub fn root_keys(&self) -> RootKeys {
        match self.encrypted {
            true => root_keys(),
            false => RootKeys::none(),
        }
    }

    /// The image's size.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.areas.image_pages() << self.page_size.bits()
    }

    /// Bytes of the pages that clients use.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.pages << self.page_size.bits()
    }
}
