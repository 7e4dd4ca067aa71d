//! How a plan is drawn from its seed.

use std::time::Duration;

use mvps_core::engine::{CompactionSettings, EngineConfig};
use mvps_core::ids::PageSize;

use super::areas::Areas;
use super::contents::{Events, Operations, Plan, StoreFaults, StoreProfile, is_on_files};
use super::focus::Focus;
use super::history::HistoryPlan;
use super::limits::limit;
use super::themes::sharpen;
use crate::random::RandomStream;

/// Images are small, so that requests meet each other and a seed takes a second.
pub(super) const IMAGE_BYTES_MAX: u64 = 2 << 20;

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
            areas: Areas::whole(page_size, pages),
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
            looks: RandomStream::new(seed, "looks").pick(&[0, 30, 100]),
            disk_faults_max: 2,
            failed_lose_power: 0,
            silences: RandomStream::new(seed, "silences").pick(&[0, 0, 0, 150, 400]),
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
            on_files: is_on_files(),
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
        let mut plan = sharpen(focus, plan, &random);
        plan.history = HistoryPlan::of(seed, plan.page_size);
        if focus == Focus::Harsh {
            plan.history = plan.history.crowded();
        }
        // These two are drawn apart as well, and from what the theme made of the plan.
        plan.areas = Areas::of(seed, "areas", plan.page_size, plan.pages);
        limit(seed, "limits", &mut plan);
        plan
    }
}

pub(super) fn config(random: &RandomStream, page_size: PageSize, pages: u64) -> EngineConfig {
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

/// Map compaction and cleaning at every scale; drawn apart, so that the rest of a seed's plan stays
/// what it was without them.
pub(super) fn compaction(seed: u64, page_size: PageSize) -> CompactionSettings {
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
        compact_map_for_space_bytes: page * random.pick(&[1, 16]),
        tail_segments_worth_compaction: usize::try_from(random.pick(&[2, 16])).expect("small"),
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
