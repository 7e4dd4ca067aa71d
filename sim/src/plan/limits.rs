//! The engine's limits as a seed draws them: so small, in half of the seeds, that the rules which
//! they hide act. Drawn apart, so that the rest of a seed's plan stays what it was without.

use mvps_core::engine::Limits;

use super::contents::Plan;
use crate::random::RandomStream;

/// Half of the seeds keep production's limits.
const SMALL_PER_MILLE: u64 = 500;

/// Of the others, as many have a buffer that a few requests fill.
const TIGHT_PER_MILLE: u64 = 300;

/// Gives `plan` the limits that `seed` draws for what is called `name`.
pub(super) fn limit(seed: u64, name: &str, plan: &mut Plan) {
    let random = RandomStream::new(seed, name);
    if !random.chance(SMALL_PER_MILLE) {
        return;
    }
    let page = plan.page_size.bytes();
    let page_bytes = page as u64;
    plan.config.limits = Limits {
        conflict_ranges_max: random.pick(&[1, 2, 4, 16, 1 << 20]),
        group_commits_max: random.pick(&[1, 2, 3, 256]),
        group_bytes_max: page * random.pick(&[1, 4, 1024]),
        large_group_bytes: page * random.pick(&[1, 64]),
        stalled_sweep_bytes: page * random.pick(&[1, 8]),
        events_max: random.pick(&[1, 2, 16, 1024]),
        segment_content_bytes: page_bytes * random.pick(&[1, 4, 16, 1 << 16]),
        segment_batch_bytes: page * random.pick(&[1, 2, 8]),
        map_objects_max: random.pick(&[1, 2, 4, 16]),
        overlay_entries_max: random.pick(&[0, 2, 16, 1 << 20]),
        dead_bytes_worth_compaction: page_bytes * random.pick(&[1, 8, 1024]),
    };
    // What merging writes must be larger than what it merges, or it never comes to an end (seeds
    // 320, 50001126).
    let compaction = &mut plan.config.compaction;
    let merged_bytes =
        plan.config.limits.segment_content_bytes / compaction.small_segments_max as u64;
    compaction.small_segment_bytes = compaction.small_segment_bytes.min(merged_bytes);
    let segment_bytes = plan.config.limits.segment_content_bytes;
    compaction.step_bytes = compaction.step_bytes.min(segment_bytes);
    if random.chance(TIGHT_PER_MILLE) {
        // Writes wait where checkpoints do not keep up, and the disk is what they wait for.
        let limit_bytes = &mut plan.config.buffer_limit_bytes;
        *limit_bytes = (*limit_bytes).min(page_bytes * 48);
        plan.events.buffer_fault = plan.events.buffer_fault.max(6);
    }
}
