//! What each theme makes of a plan.

use std::time::Duration;

use mvps_core::ids::PageSize;

use super::contents::{Events, Operations, Plan, StoreFaults};
use super::focus::Focus;
use crate::random::RandomStream;

/// Nothing is worth keeping in a cache of this size.
const NO_CACHE_BYTES: u64 = 8 << 10;

/// Makes the plan one of this theme.
pub(super) fn sharpen(focus: Focus, mut plan: Plan, random: &RandomStream) -> Plan {
    match focus {
        Focus::Anything => {}
        Focus::Disk => disk(&mut plan, random),
        Focus::Harsh => harsh(&mut plan, random),
        Focus::Superseded => superseded(&mut plan, random),
        Focus::Patches => patches(&mut plan, random),
        Focus::Collection => collection(&mut plan, random),
        Focus::Isolation => isolation(&mut plan, random),
        Focus::Damage => damage(&mut plan, random),
        Focus::Moving => moving(&mut plan, random),
        Focus::Crashes => {
            plan.events.trip = 20;
            plan.rounds += 10;
        }
        Focus::Unconditional => plan.profile.ignores_conditions = true,
        Focus::StaleListings => plan.profile.stale_listings = true,
    }
    plan
}

fn few_pages(plan: &mut Plan, pages: u64) {
    plan.page_size = PageSize::from_bits(12).expect("within range");
    plan.pages = pages;
    plan.write_pages_max = plan.write_pages_max.min(2);
    plan.config.checkpoint_bytes = 1 << 14;
    plan.config.buffer_limit_bytes = 1 << 20;
    plan.config.transaction_bytes_max = 1 << 20;
    plan.config.checkpoint_interval = Duration::from_millis(300);
}

fn disk(plan: &mut Plan, random: &RandomStream) {
    plan.events = Events {
        kill: 2,
        power_cut: 6,
        buffer_fault: 16,
        rot: 4,
        ..Events::default()
    };
    plan.disk_faults_max = random.pick(&[3, 6]);
    plan.failed_lose_power = 600;
    plan.rounds += 10;
    plan.round_max = random.pick(&[Duration::from_secs(2), Duration::from_secs(20)]);
    plan.think_max = random.pick(&[Duration::from_millis(20), Duration::from_millis(200)]);
    plan.operations.flush = 6;
    plan.durable = random.pick(&[200, 700]);
    plan.object_store = random.pick(&[0, 100]);
    plan.config.checkpoint_interval =
        random.pick(&[Duration::from_millis(300), Duration::from_secs(3)]);
    plan.disk_max = plan.disk_max.min(Duration::from_millis(20));
}

fn harsh(plan: &mut Plan, random: &RandomStream) {
    plan.collectors = 2;
    plan.collector_pause_max = random.pick(&[Duration::from_millis(500), Duration::from_secs(10)]);
    plan.store = StoreFaults {
        reply_lost: 40,
        late: 40,
        twice: 20,
        refused: 20,
        slow: 10,
        ..plan.store
    };
    plan.events.trip += 6;
    plan.events.takeover += 2;
    plan.events.pause += 2;
}

fn superseded(plan: &mut Plan, random: &RandomStream) {
    plan.config.checkpoint_interval = Duration::from_mins(2);
    plan.config.checkpoint_bytes = 64 << 20;
    plan.config.buffer_limit_bytes = 256 << 20;
    plan.clients = random.within(2..5);
    plan.think_max = random.pick(&[Duration::from_millis(500), Duration::from_secs(2)]);
    plan.durable = random.pick(&[0, 100]);
    plan.object_store = 0;
    plan.operations.checkpoint = 0;
    plan.disk_max = Duration::from_millis(20);
    plan.round_max = Duration::from_mins(2);
    plan.store = StoreFaults::default();
    plan.events = Events {
        kill: 1,
        takeover: 8,
        adopt: 1,
        pause: 1,
        ..Events::default()
    };
}

fn patches(plan: &mut Plan, random: &RandomStream) {
    few_pages(plan, 8);
    plan.clients = random.within(3..7);
    plan.think_max = Duration::from_millis(50);
    plan.config.cache_bytes = NO_CACHE_BYTES;
    plan.operations = Operations {
        write: 2,
        unaligned: 10,
        read: 1,
        trim: 1,
        zero: 1,
        flush: 0,
        transaction: 1,
        checkpoint: 0,
        revoke: random.pick(&[0, 2]),
    };
    plan.store = StoreFaults {
        slow_reads: 300,
        ..StoreFaults::default()
    };
    plan.round_max = Duration::from_secs(5);
}

fn collection(plan: &mut Plan, random: &RandomStream) {
    let pages = random.pick(&[8, 24]);
    few_pages(plan, pages);
    plan.collectors = random.within(1..3);
    plan.collector_pause_max = random.pick(&[Duration::from_millis(500), Duration::from_secs(3)]);
    plan.clients = random.within(2..5);
    plan.think_max = random.pick(&[Duration::from_millis(50), Duration::from_secs(1)]);
    plan.config.cache_bytes = NO_CACHE_BYTES;
    plan.config.transaction_age_max = Duration::from_mins(5);
    plan.config.transactions_max = 64;
    plan.linger_max = Duration::from_secs(40);
    plan.operations.transaction = 8;
    plan.operations.read = 4;
    plan.part_bytes = random.pick(&[8 << 10, 8 << 20]);
    plan.store = StoreFaults {
        reply_lost: random.pick(&[0, 30]),
        late: random.pick(&[0, 30]),
        slow: random.pick(&[0, 30]),
        partial_delete: random.pick(&[0, 200]),
        completion_fails: random.pick(&[0, 100]),
        ..StoreFaults::default()
    };
    plan.events.cut_off = 6;
    plan.events.pause = 4;
    plan.events.takeover = plan.events.takeover.max(1);
    plan.round_max = random.pick(&[Duration::from_secs(5), Duration::from_mins(1)]);
}

fn isolation(plan: &mut Plan, random: &RandomStream) {
    few_pages(plan, random.pick(&[8, 16]));
    plan.clients = random.within(3..7);
    plan.think_max = random.pick(&[Duration::from_millis(50), Duration::from_millis(500)]);
    plan.operations = Operations {
        write: 3,
        unaligned: 1,
        read: 1,
        trim: 4,
        zero: 2,
        flush: 0,
        transaction: 10,
        checkpoint: 0,
        revoke: random.pick(&[0, 1]),
    };
}

fn damage(plan: &mut Plan, random: &RandomStream) {
    few_pages(plan, random.pick(&[8, 24]));
    plan.config.compression = random.pick(&[None, None, Some(1)]);
    plan.config.cache_bytes = NO_CACHE_BYTES;
    plan.operations.read = 10;
    plan.events.rot = 3;
    plan.store = StoreFaults {
        bit_flip: random.pick(&[10, 40]),
        wrong_object: random.pick(&[10, 40]),
        truncated: random.pick(&[10, 40]),
        body_stalled: random.pick(&[0, 10]),
        ..StoreFaults::default()
    };
}

fn moving(plan: &mut Plan, random: &RandomStream) {
    plan.events = Events {
        kill: 1,
        restart: 10,
        trip: 1,
        ..Events::default()
    };
    plan.abrupt = 600;
    plan.think_max = random.pick(&[Duration::from_millis(5), Duration::from_millis(50)]);
    plan.round_max = Duration::from_secs(5);
    plan.rounds += 6;
    // Reads that are under way while the image closes.
    if random.chance(500) {
        plan.config.cache_bytes = NO_CACHE_BYTES;
        plan.config.checkpoint_interval = Duration::from_millis(300);
        plan.operations.read = 8;
        plan.store.slow_reads = 300;
        plan.abrupt = 1000;
    }
}
