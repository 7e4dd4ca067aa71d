//! Limits and intervals of one open image, each with its reason.

use std::time::Duration;

use super::limits::Limits;
use super::publisher::{COMPRESSION_LEVEL, CompactionSettings};

/// Bytes in a kibibyte, mebibyte and gibibyte.
const KIB: u64 = 1 << 10;
const MIB: u64 = KIB << 10;
const GIB: u64 = MIB << 10;

/// How often deadlines (checkpoint interval, transaction age, lock age) are looked at while there
/// are any.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// Everything that can be configured about an open image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Time after which buffered commits are checkpointed, before jitter of ± a tenth.
    pub checkpoint_interval: Duration,
    /// Bytes of records after which a generation is sealed and checkpointed. 256 MiB: large enough
    /// for large objects and few requests, small enough to keep two generations in memory.
    pub checkpoint_bytes: u64,
    /// Bytes that the buffer store may take on disk; at the limit writes wait (D9).
    pub buffer_limit_bytes: u64,
    /// Time after which a tenure must be confirmed again before a write or flush is acknowledged
    /// (protocol §3.8).
    pub tenure_confirmed_for: Duration,
    /// Bytes that one transaction may write.
    pub transaction_bytes_max: u64,
    /// Ranges of pages that one transaction may read.
    pub transaction_reads_max: usize,
    /// Open transactions of one image.
    pub transactions_max: usize,
    /// Age at which an open transaction is aborted.
    pub transaction_age_max: Duration,
    /// Time after which a lock is broken and its transaction aborted.
    pub lock_held_max: Duration,
    /// Level of zstd for segments, or `None` to store pages as they are.
    pub compression: Option<i32>,
    /// Bytes of decoded frames and leaves kept in memory.
    pub cache_bytes: u64,
    /// Map compaction and cleaning.
    pub compaction: CompactionSettings,
    /// What bounds memory and work, and is no user's to choose.
    pub limits: Limits,
    /// Host and process, recorded in the manifest for messages to the operator.
    pub owner: String,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            checkpoint_interval: Duration::from_mins(1),
            checkpoint_bytes: 256 * MIB,
            buffer_limit_bytes: 8 * GIB,
            tenure_confirmed_for: Duration::from_secs(10),
            transaction_bytes_max: 64 * MIB,
            transaction_reads_max: 1 << 18,
            transactions_max: 1024,
            transaction_age_max: Duration::from_mins(5),
            lock_held_max: Duration::from_secs(30),
            compression: Some(COMPRESSION_LEVEL),
            cache_bytes: 256 * MIB,
            compaction: CompactionSettings::default(),
            limits: Limits::default(),
            owner: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise merging never comes to an end, or an offset does not fit its 32 bits.
    #[test]
    fn segments_are_larger_than_what_is_merged_and_no_larger_than_offsets_reach() {
        let config = EngineConfig::default();
        let segment_bytes = config.limits.segment_content_bytes;
        assert!(config.compaction.small_segment_bytes < segment_bytes);
        assert!(config.compaction.step_bytes <= segment_bytes);
        assert!(segment_bytes <= 2 * GIB);
    }
}
