//! Carries one sealed generation to object storage: its pages as segments, its holes as ranges of
//! their indexes, and the map compacted when it is time.
//!
//! Invariants: data goes out in page order, the newest content of each page once; everything is
//! uploaded under names that were never used before.
//!
//! Must never: publish, or change the generation.

use std::sync::Arc;

use super::map_compaction::{
    MapCompactionError, MapCompactionIncentive, MapCompactionPlan, MapCompactionRequest, compact,
    is_due,
};
use super::segment_writer::{SegmentSettings, SegmentWriter, WrittenSegment};
use super::state::Publisher;
use crate::engine::buffer::{Buffered, GenerationIndex};
use crate::engine::error::EngineError;
use crate::engine::read::Map;
use crate::env::{BufferError, SpawnerExt, StoreError};
use crate::format::manifest::{Manifest, SegmentId};
use crate::format::object_name::ObjectKind;
use crate::format::segment::PageSpan;
use crate::ids::PageNumber;
use crate::object_reads::ReadError;
use crate::protocol::WriterPart;
use crate::store::UploadWriter;

/// Content read from the buffer store at once.
const READ_BYTES: u64 = crate::env::RECORD_MAX_BYTES as u64;

/// Why a checkpoint was not written. Nothing was published; what was uploaded is never used.
pub(super) enum CheckpointError {
    /// The buffer store failed, or an object is damaged.
    Engine(EngineError),
    /// The object store refuses it.
    Store(StoreError),
}

impl From<StoreError> for CheckpointError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<BufferError> for CheckpointError {
    fn from(error: BufferError) -> Self {
        Self::Engine(error.into())
    }
}

impl From<MapCompactionError> for CheckpointError {
    fn from(error: MapCompactionError) -> Self {
        match error {
            MapCompactionError::Write(error)
            | MapCompactionError::Read(ReadError::Store(error)) => Self::Store(error),
            MapCompactionError::Read(error) => Self::Engine(error.into()),
        }
    }
}

impl From<ReadError> for CheckpointError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Store(error) => Self::Store(error),
            error => Self::Engine(error.into()),
        }
    }
}

/// What was written: the map that has it, and what a manifest says of it.
pub(super) struct Written {
    pub(super) map: Map,
    /// The writer's part, but for the size and the LSN.
    pub(super) part: WriterPart,
    /// Whether the map was compacted.
    pub(super) compacted: bool,
    /// Bytes of the segments.
    pub(super) segment_bytes: u64,
}

/// Writes `generation`.
pub(super) async fn write_checkpoint(
    publisher: &Publisher,
    generation: &GenerationIndex,
) -> Result<Written, CheckpointError> {
    let memory = publisher.memory_for(generation.bytes).await;
    let segments = write_segments(publisher, generation).await?;
    drop(memory);
    apply(publisher, segments).await
}

/// As for a checkpoint, with segments that cleaning wrote; `None` if that changes nothing.
pub(super) async fn conclude(
    publisher: &Publisher,
    segments: Vec<WrittenSegment>,
) -> Result<Option<Written>, CheckpointError> {
    let nothing = segments.is_empty();
    let written = apply(publisher, segments).await?;
    Ok((!nothing || written.compacted).then_some(written))
}

/// The map with these segments, compacted if it is time.
async fn apply(
    publisher: &Publisher,
    segments: Vec<WrittenSegment>,
) -> Result<Written, CheckpointError> {
    let (next, map) = (publisher.newest.clone(), publisher.map.clone());
    let segment_bytes = segments.iter().map(|segment| segment.size_bytes).sum();
    let limits = publisher.limits;
    let cleaning = &publisher.cleaning;
    let incentive = cleaning.map_compaction_incentive(&next, &limits);
    let spawner = &publisher.host.environment.spawner;
    let applied = spawner
        .run(move || apply_segments(segments, next, map, &incentive, limits.map_objects_max))
        .await;
    let (mut next, mut map, plan) = applied;
    let compacted = plan.is_some();
    if let Some(plan) = plan {
        map = compact_map(publisher, &map, &mut next, &plan).await?;
    }
    let part = WriterPart {
        // No upload outlives the job that began it, so all numbers so far are settled by this.
        watermark: publisher.names.watermark(),
        ..WriterPart::unchanged(&next)
    };
    Ok(Written {
        map,
        part,
        compacted,
        segment_bytes,
    })
}

/// The manifest and the map with `segments`, and how to compact them if it is time. Takes tens of
/// milliseconds where there is much.
fn apply_segments(
    segments: Vec<WrittenSegment>,
    mut next: Manifest,
    mut map: Map,
    incentive: &MapCompactionIncentive,
    objects_max: usize,
) -> (Manifest, Map, Option<MapCompactionPlan>) {
    let published = match crate::mutant::is("a split checkpoint publishes its first segment") {
        true => 1,
        false => segments.len(),
    };
    for segment in segments.into_iter().take(published) {
        let id = next.next_segment;
        next.next_segment = SegmentId(id.0 + 1);
        map = map.with_segment(id, segment.name.clone(), &segment.index);
        next.tail.push(id);
        next.segments.push(segment.entry(id));
    }
    let plan = MapCompactionPlan::new(&map, &next, objects_max);
    let due = is_due(&plan.state(&map, &next), incentive);
    (next, map, due.then_some(plan))
}

/// A writer of segments of the tenure.
pub(super) fn segment_writer(publisher: &Publisher) -> SegmentWriter {
    let settings = SegmentSettings {
        compression_level: publisher.compression,
        keys: Arc::clone(&publisher.keys),
        ..SegmentSettings::new(publisher.newest.page_size, &publisher.limits)
    };
    let names = publisher.names.clone();
    SegmentWriter::new(
        publisher.host.store.clone(),
        Arc::clone(&publisher.host.environment.spawner),
        settings,
        Box::new(move || names.name(ObjectKind::Segment)),
    )
}

async fn write_segments(
    publisher: &Publisher,
    generation: &GenerationIndex,
) -> Result<Vec<WrittenSegment>, CheckpointError> {
    let page_size = publisher.newest.page_size;
    // What was just written is what is read next.
    let mut writer = segment_writer(publisher).filling(publisher.host.frames.disk().clone());
    for (pages, buffered) in generation.records.iter() {
        let count = pages.end.0 - pages.start.0;
        match *buffered {
            Buffered::Hole { .. } if crate::mutant::is("trim dropped in checkpoint") => {}
            Buffered::Hole { .. } => {
                writer
                    .hole(PageSpan {
                        first: pages.start,
                        pages: count,
                    })
                    .await?;
            }
            Buffered::Data { at, skip } => {
                let step = READ_BYTES >> page_size.bits();
                let mut done = 0;
                while done < count {
                    let pages_now = step.min(count - done);
                    let bytes = usize::try_from(pages_now << page_size.bits());
                    let bytes = bytes.expect("a record fits memory");
                    let data = generation.read(at, skip + done, 0..bytes, page_size)?;
                    writer.pages(PageNumber(pages.start.0 + done), data).await?;
                    done += pages_now;
                }
            }
        }
    }
    Ok(writer.finish().await?)
}

async fn compact_map(
    publisher: &Publisher,
    map: &Map,
    next: &mut Manifest,
    plan: &MapCompactionPlan,
) -> Result<Map, CheckpointError> {
    let _memory = publisher.memory_for(plan.leaf_bytes()).await;
    let name = publisher.names.name(ObjectKind::Map);
    let spawner = Arc::clone(&publisher.host.environment.spawner);
    let upload = UploadWriter::new(publisher.host.store.clone(), spawner, name.key());
    let request = MapCompactionRequest {
        map,
        manifest: next,
        plan,
        name,
        upload,
    };
    let compacted = compact(request).await?;
    compacted.apply_to(next);
    Ok(compacted.map)
}
