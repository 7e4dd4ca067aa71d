//! When compaction happens, and in which portions.

/// When the map is compacted and which segments are cleaned. The defaults suit production; tests
/// make everything smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionSettings {
    /// Whether segments are cleaned at all; the map is compacted in any case.
    pub cleaning: bool,
    /// Clean when the segments take more than this many percent of their live bytes.
    pub clean_above_percent: u64,
    /// Clean until they would take no more than this.
    pub clean_down_to_percent: u64,
    /// When all segments take more than this of what can be alive, cleaning takes turns with
    /// checkpoints instead of waiting for a pause.
    pub urgent_above_percent: u64,
    /// Pages copied by one step, in bytes, but for the rest of a run: what a checkpoint may have to
    /// wait for at worst.
    pub step_bytes: u64,
    /// A segment smaller than this may be merged with others of about its size.
    pub small_segment_bytes: u64,
    /// So many small segments of about the same size are merged.
    pub small_segments_max: usize,
    /// With less than this in the tail and in cleaned segments, the map is not compacted for the
    /// sake of space.
    pub compact_map_for_space_bytes: u64,
    /// Fewer segments in the tail than this are not compacted to make opening cheaper.
    pub tail_segments_worth_compaction: usize,
    /// More segments than this in the tail are compacted whatever it costs.
    pub tail_segments_max: usize,
}

impl Default for CompactionSettings {
    fn default() -> Self {
        Self {
            cleaning: true,
            // Chosen by the space simulation beside the planner: under uniform random overwrites
            // these cost 0.6 to 0.7 copied bytes per written byte. What waits for a map compaction,
            // for readers and for the collector comes on top of 1.42.
            clean_above_percent: 142,
            clean_down_to_percent: 137,
            // Below the first: whoever writes without a pause never leaves an idle publisher.
            urgent_above_percent: 140,
            step_bytes: 256 << 20,
            small_segment_bytes: 32 << 20,
            small_segments_max: 16,
            compact_map_for_space_bytes: 256 << 20,
            tail_segments_worth_compaction:
                crate::engine::publisher::map_compaction::TAIL_SEGMENTS_WORTH_COMPACTION,
            tail_segments_max: crate::engine::publisher::map_compaction::TAIL_SEGMENTS_MAX,
        }
    }
}

/// Portions are no smaller than this, however small checkpoints are: every one of them is published
/// by itself.
const PORTION_BYTES_MIN: u64 = 16 << 20;

impl CompactionSettings {
    /// The defaults, in portions that suit checkpoints of so many bytes: a step copies no more than
    /// one of them writes, so that cleaning keeps up while both take turns, and a map compaction
    /// waits for what one of them moves.
    #[must_use]
    pub fn for_checkpoints_of(bytes: u64) -> Self {
        let bytes = bytes.max(PORTION_BYTES_MIN);
        Self {
            step_bytes: bytes,
            compact_map_for_space_bytes: bytes,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_suit_the_default_checkpoint() {
        let default = crate::engine::EngineConfig::default().checkpoint_bytes;
        let settings = CompactionSettings::for_checkpoints_of(default);
        assert_eq!(settings, CompactionSettings::default());
        let tiny = CompactionSettings::for_checkpoints_of(1);
        assert_eq!(tiny.compact_map_for_space_bytes, PORTION_BYTES_MIN);
    }
}
