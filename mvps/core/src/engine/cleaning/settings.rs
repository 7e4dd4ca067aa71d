//! When compaction happens, and in which portions.

/// See the module's text. The defaults suit production; tests make everything smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionSettings {
    /// Whether segments are cleaned at all; the map is folded in any case.
    pub cleaning: bool,
    /// Clean when the segments take more than this many percent of their live bytes.
    pub clean_above_percent: u64,
    /// Clean until they would take no more than this.
    pub clean_down_to_percent: u64,
    /// Above this, cleaning takes turns with checkpoints instead of waiting for a pause.
    pub urgent_above_percent: u64,
    /// Pages copied by one step, in bytes, but for the rest of a run: what a checkpoint may have to
    /// wait for at worst.
    pub step_bytes: u64,
    /// A segment smaller than this may be merged with others of about its size.
    pub small_segment_bytes: u64,
    /// So many small segments of about the same size are merged.
    pub small_segments_max: usize,
    /// With less than this in the tail and in cleaned segments, the map is not folded for the sake
    /// of space.
    pub fold_for_space_bytes: u64,
    /// Fewer segments in the tail than this are not folded to make opening cheaper.
    pub tail_segments_worth_a_fold: usize,
    /// More segments than this in the tail are folded whatever it costs.
    pub tail_segments_max: usize,
}

impl Default for CompactionSettings {
    fn default() -> Self {
        Self {
            cleaning: true,
            // Chosen by the space simulation beside the planner: under uniform random overwrites
            // 1.45 costs about 0.7 copied bytes per written byte. What waits for a fold, for
            // readers and for the collector comes on top of it.
            clean_above_percent: 145,
            clean_down_to_percent: 135,
            urgent_above_percent: 190,
            step_bytes: 128 << 20,
            small_segment_bytes: 32 << 20,
            small_segments_max: 16,
            fold_for_space_bytes: 256 << 20,
            tail_segments_worth_a_fold: crate::engine::fold::TAIL_SEGMENTS_WORTH_A_FOLD,
            tail_segments_max: crate::engine::fold::TAIL_SEGMENTS_MAX,
        }
    }
}
