//! What a seed draws: configuration, workload and faults (swarm testing).
//!
//! Each seed enables a random subset of the faults and of the operations, because a fault that
//! happens all the time hides what happens without it.

use std::time::Duration;

use mvps_core::encryption::{ROOT_KEY_BYTES, RootKey, RootKeys};
use mvps_core::engine::{CompactionSettings, EngineConfig};
use mvps_core::ids::PageSize;

use crate::random::RandomStream;

mod focus;
mod history;

pub use focus::Focus;
pub use history::{HistoryPlan, Second};

/// Images are small, so that requests meet each other and a seed takes a second.
const IMAGE_BYTES_MAX: u64 = 2 << 20;

/// After so many requests clients become slow: the rest of the seed is about servers.
pub const BUSY_OPERATIONS: u64 = 3000;

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
    /// A buffer store that was deposed is adopted.
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
    /// The image's size in pages.
    pub pages: u64,
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
    /// The plan of `seed`.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let random = RandomStream::new(seed, "plan");
        let bits = random.pick(&[12, 12, 12, 12, 13, 14, 16]);
        let page_size = PageSize::from_bits(bits).expect("within range");
        let pages = random.pick(&[8, 24, 64, 64, 160, 400]);
        let pages = pages.min(IMAGE_BYTES_MAX >> bits);
        let faults = random.pick(&[0, 1, 1, 2, 3]);
        let round_max = random.pick(&[
            Duration::from_millis(200),
            Duration::from_secs(5),
            Duration::from_secs(60),
            Duration::from_secs(300),
        ]);
        let plan = Self {
            seed,
            focus: Focus::draw(&random),
            page_size,
            pages,
            config: EngineConfig {
                compaction: compaction(seed, page_size),
                ..config(&random, page_size, pages)
            },
            clients: random.within(1..6),
            write_pages_max: random.pick(&[1, 4, 16, 40]).min(pages),
            durable: random.pick(&[0, 50, 200, 700]),
            object_store: random.pick(&[0, 0, 100, 400]),
            think_max: random.pick(&[
                Duration::from_millis(2),
                Duration::from_millis(50),
                Duration::from_secs(1),
                Duration::from_secs(20),
            ]),
            operations: operations(&random),
            store: store_faults(&random, faults),
            profile: StoreProfile {
                bandwidth: random.pick(&[None, None, None, Some(400_000), Some(4_000_000)]),
                ..StoreProfile::default()
            },
            part_bytes: random.pick(&[8 << 20, 8 << 20, 16 << 10, 64 << 10]),
            events: events(&random),
            rounds: random.within(4..16),
            round_max,
            drift_ppm: random.pick(&[0, 100, 50_000]),
            disk_max: random.pick(&[
                Duration::from_millis(1),
                Duration::from_millis(20),
                Duration::from_secs(2),
            ]),
            collectors: random.pick(&[0, 0, 1, 1, 2]),
            collector_pause_max: round_max,
            abrupt: random.pick(&[0, 0, 300]),
            linger_max: Duration::ZERO,
            over_nbd: random.chance(400),
            idle_time: random.pick(&[Duration::from_secs(1), Duration::from_mins(1)]),
            hostile: random.pick(&[0, 100]),
            cuts: random.pick(&[0, 0, 500]),
            leaving: random.pick(&[0, 1, 10]),
            grows: random.chance(200),
            // Drawn apart, so that the rest of a seed's plan stays what it was without it.
            encrypted: RandomStream::new(seed, "encryption").chance(250),
            history: HistoryPlan::none(),
        };
        let focus = plan.focus;
        let mut plan = focus.sharpen(plan, &random);
        plan.history = HistoryPlan::of(seed, plan.page_size);
        plan
    }

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
        self.pages << self.page_size.bits()
    }
}

fn config(random: &RandomStream, page_size: PageSize, pages: u64) -> EngineConfig {
    let page = page_size.bytes() as u64;
    // No request may be larger than the limit, or it would never fit.
    let least_limit = (pages.min(40) + 8) * page * 2;
    EngineConfig {
        checkpoint_interval: random.pick(&[
            Duration::from_millis(300),
            Duration::from_secs(3),
            Duration::from_secs(60),
        ]),
        checkpoint_bytes: page * random.pick(&[4, 16, 64, 1000]),
        buffer_limit_bytes: least_limit * random.pick(&[2, 8, 1000]),
        transaction_bytes_max: page * random.pick(&[4, 64, 1000]),
        transactions_max: usize::try_from(random.pick(&[2, 64])).expect("small"),
        transaction_age_max: random.pick(&[Duration::from_secs(5), Duration::from_mins(5)]),
        lock_held_max: random.pick(&[Duration::from_secs(1), Duration::from_secs(30)]),
        compression: random.pick(&[None, Some(1), Some(1), Some(3)]),
        cache_bytes: random.pick(&[64 << 10, 1 << 20, 16 << 20]),
        owner: "simulated".to_owned(),
        ..EngineConfig::default()
    }
}

/// Folds and cleaning at every scale; drawn apart, so that the rest of a seed's plan stays what it
/// was without them.
fn compaction(seed: u64, page_size: PageSize) -> CompactionSettings {
    let random = RandomStream::new(seed, "compaction");
    let page = page_size.bytes() as u64;
    CompactionSettings {
        cleaning: random.chance(750),
        clean_above_percent: random.pick(&[105, 120, 145]),
        clean_down_to_percent: random.pick(&[100, 105]),
        urgent_above_percent: random.pick(&[110, 190]),
        step_bytes: page * random.pick(&[2, 16, 1000]),
        small_segment_bytes: random.pick(&[0, 32 << 20]),
        small_segments_max: usize::try_from(random.pick(&[3, 16])).expect("small"),
        fold_for_space_bytes: page * random.pick(&[1, 16]),
        tail_segments_worth_a_fold: usize::try_from(random.pick(&[2, 16])).expect("small"),
        tail_segments_max: usize::try_from(random.pick(&[4, 256])).expect("small"),
    }
}

fn operations(random: &RandomStream) -> Operations {
    let weight = || random.pick(&[0, 1, 4]);
    Operations {
        write: 4 + weight(),
        unaligned: weight() * 2,
        read: 1 + weight(),
        trim: weight(),
        zero: weight(),
        flush: weight(),
        transaction: weight() * 2,
        checkpoint: random.pick(&[0, 0, 1]),
        revoke: random.pick(&[0, 0, 1]),
    }
}

fn store_faults(random: &RandomStream, strength: u64) -> StoreFaults {
    let rate = || {
        if strength > 0 && random.chance(450) {
            random.pick(&[2, 10, 60]) * strength
        } else {
            0
        }
    };
    StoreFaults {
        refused: rate(),
        reply_lost: rate(),
        late: rate(),
        twice: rate(),
        stalled: rate() / 4,
        slow_down: rate() / 2,
        truncated: rate() / 2,
        bit_flip: if random.chance(200) { rate() / 4 } else { 0 },
        conflict: rate(),
        slow: rate(),
        slow_reads: 0,
        body_stalled: rate() / 4,
        wrong_object: if random.chance(200) { rate() / 4 } else { 0 },
        partial_delete: rate() * 2,
        completion_fails: rate(),
    }
}

fn events(random: &RandomStream) -> Events {
    let weight = || random.pick(&[0, 0, 1, 2, 4]);
    Events {
        kill: 1 + weight(),
        power_cut: 1 + weight(),
        restart: 1 + weight(),
        pause: weight(),
        takeover: weight(),
        lose_buffer: weight() / 2,
        roll_back: weight() / 2,
        adopt: weight() / 2,
        outage: weight() / 2,
        cut_off: weight() / 2,
        clock_jump: weight() / 2,
        buffer_fault: weight() / 2,
        intruder: weight() / 2,
        trip: weight(),
        rot: weight() / 2,
    }
}
