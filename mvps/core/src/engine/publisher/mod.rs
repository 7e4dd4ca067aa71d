//! From the buffer to object storage: whoever holds the [`Publisher`] may upload and publish for
//! the tenure.
//!
//! The image's task hands it to one background task at a time and gets it back with the outcome, so
//! that everything which publications need to be ordered by (the counter, the newest manifest, the
//! numbers of objects, the metadata of the buffer store) has one owner. A checkpoint: write the
//! generation's pages as segments, compact the map if it is time, sync the buffer store, publish,
//! note it in the buffer store. Only then is the generation dropped, by the image's task (protocol
//! §3.5).
//!
//! Read `state` (what it holds), `job` and `run` (what it is asked), `publication`,
//! `retirement`; then `checkpoint`, `segment_writer`, `map_compaction`, `cleaning`, `rollback`.
//!
//! Must never: publish another body before the fate of the last one is known; delete an object
//! (protocol §3.7); use an object name twice; know the image's task.

mod checkpoint;
mod cleaning;
mod job;
mod map_compaction;
mod names;
mod publication;
mod retirement;
mod rollback;
mod run;
mod segment_writer;
mod state;

#[cfg(test)]
pub(in crate::engine) use cleaning::own_reader;
pub use cleaning::plan::Urgency;
pub use cleaning::{CompactionSettings, SpaceStatus};
pub(in crate::engine) use cleaning::{Hurry, Pace};
pub(in crate::engine) use job::{Job, JobDone, JobOutcome, RollbackOrder};
#[cfg(test)]
pub(in crate::engine) use map_compaction::{
    CompactedMap, MapCompactionPlan, MapCompactionRequest, compact,
};
pub use segment_writer::COMPRESSION_LEVEL;
#[cfg(test)]
pub(in crate::engine) use segment_writer::{SegmentSettings, SegmentWriter, WrittenSegment};
pub(in crate::engine) use state::{Publisher, PublisherParts};
