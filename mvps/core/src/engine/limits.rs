//! Limits of one open image that bound its memory and its work, and that no user has a reason to
//! change.
//!
//! Each hides a rule: what happens when it is met. So they are values and not constants, and the
//! simulation draws them so small that their rules act. What the stored format fixes is no limit of
//! this kind: the pages of a leaf of the map ([`crate::format::map_object::LEAF_PAGES`]) and of a
//! frame are the same for every reader of an image.

/// Limits of one open image. The defaults are what production runs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Ranges that the conflict window remembers (about 100 bytes each) before the oldest open
    /// transaction is aborted. 2^20.
    pub conflict_ranges_max: usize,
    /// Most commits in one buffer batch, at least 1: enough to amortise the batch, few enough that
    /// the first one does not wait for long. 256.
    pub group_commits_max: usize,
    /// Bytes at which a buffer batch takes no more commits: enough to amortise it, and a few
    /// milliseconds of work, for which other images wait. One commit may have more, a largest
    /// request and its edges. 4 MiB.
    pub group_bytes_max: usize,
    /// Bytes of a buffer batch from which on other images have their turn before the next one.
    /// 256 KiB.
    pub large_group_bytes: usize,
    /// Bytes of commits that begin to wait before those among the waiting are looked for that
    /// nobody waits for any more: beyond what connections have in flight they take no more than
    /// this. 4 MiB.
    pub stalled_sweep_bytes: usize,
    /// Events that may wait for the image's task, at least 1; senders wait beyond that. 1024.
    pub events_max: usize,
    /// Content that one segment may hold: a checkpoint that was started by its size (256 MiB) and
    /// what arrived until it was sealed. At most 2 GiB, since offsets within a segment are 32 bits
    /// wide; more than [`crate::engine::CompactionSettings::small_segment_bytes`] and no less than
    /// its `step_bytes`, or merging small segments never comes to an end. 320 MiB.
    pub segment_content_bytes: u64,
    /// Content that is encoded by one computation, a few milliseconds of work; segments are cut
    /// between two of these. 2 MiB.
    pub segment_batch_bytes: usize,
    /// Most map objects that a version uses, at least 1. Each costs a line in the manifest; fewer
    /// would mean writing leaves again more often. 16.
    pub map_objects_max: usize,
    /// A larger overlay of the map is compacted whatever it costs: an entry takes about 70 bytes of
    /// memory. 2^20.
    pub overlay_entries_max: usize,
    /// Fewer dead bytes than this are not worth a map compaction of their own, even where little
    /// else is stored. 4 MiB.
    pub dead_bytes_worth_compaction: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            conflict_ranges_max: 1 << 20,
            group_commits_max: 256,
            group_bytes_max: 4 << 20,
            large_group_bytes: 256 << 10,
            stalled_sweep_bytes: 4 << 20,
            events_max: 1024,
            segment_content_bytes: 320 << 20,
            segment_batch_bytes: 2 << 20,
            map_objects_max: 16,
            overlay_entries_max: 1 << 20,
            dead_bytes_worth_compaction: 4 << 20,
        }
    }
}
