//! Opening the map of a published version.
//!
//! Costs one request for the root and one for each segment since the last map compaction, however
//! many segments and leaves there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::{LeafReads, Map};
use crate::format::codec::RecordKind;
use crate::format::manifest::{Manifest, MapObjectId, SegmentEntry, SegmentId};
use crate::format::map_object::{LEAF_PAGES, Root};
use crate::format::object_name::{ObjectName, manifest_key};
use crate::format::segment::SegmentIndex;
use crate::object_reads::{Piece, ReadError};

/// Indexes fetched at the same time: an index may take a few megabytes in memory.
const INDEXES_IN_FLIGHT_MAX: usize = 8;

impl Map {
    /// The map of the version that `manifest` publishes.
    ///
    /// # Errors
    /// [`ReadError`]; [`ReadError::Corrupt`] also if the manifest and its objects do not agree.
    pub async fn open(manifest: &Manifest, leaves: Arc<LeafReads>) -> Result<Self, ReadError> {
        let mut map = Self::empty(Arc::clone(&leaves));
        map.objects = Arc::new(object_names(manifest));
        map.root = Arc::new(map.read_root(manifest).await?);
        let entries: BTreeMap<SegmentId, &SegmentEntry> = manifest
            .segments
            .iter()
            .map(|entry| (entry.id, entry))
            .collect();
        let names = manifest
            .segments
            .iter()
            .map(|entry| (entry.id, Arc::new(entry.name.clone())));
        map.segments = names.collect();
        let reads = leaves.object_reads();
        let tail: Vec<SegmentId> = manifest.tail.clone();
        let mut indexes = stream::iter(tail)
            .map(|id| {
                let entry = entries.get(&id).copied();
                let fetched = async move {
                    let Some(entry) = entry else {
                        return Err(unknown(manifest, format!("segment {}", id.0)));
                    };
                    let piece = Piece {
                        object: &entry.name,
                        span: entry.index,
                        page: None,
                    };
                    let index = reads.read(piece, |seed, bytes| {
                        let index = SegmentIndex::decode(seed, &bytes)?;
                        let inside = end_of(&index) <= pages_of(manifest);
                        let outside = || RecordKind::SegmentIndex.corrupt(OUTSIDE);
                        inside.then_some(index).ok_or_else(outside)
                    });
                    Ok((entry, index.await?))
                };
                fetched.boxed()
            })
            .buffered(INDEXES_IN_FLIGHT_MAX);
        while let Some((entry, index)) = indexes.try_next().await? {
            map = map.with_segment(entry.id, entry.name.clone(), &index);
        }
        drop(indexes);
        Ok(map)
    }

    async fn read_root(&self, manifest: &Manifest) -> Result<Root, ReadError> {
        let Some(entry) = manifest.root else {
            return Ok(Root::default());
        };
        let Some(object) = self.objects.get(&entry.map) else {
            return Err(unknown(manifest, format!("map object {}", entry.map.0)));
        };
        let piece = Piece {
            object,
            span: entry.span,
            page: None,
        };
        let objects = &self.objects;
        let decode = |seed, bytes: bytes::Bytes| {
            let root = Root::decode(seed, &bytes)?;
            let leaves_max = pages_of(manifest).div_ceil(LEAF_PAGES);
            if root
                .leaves
                .last()
                .is_some_and(|last| last.leaf.0 >= leaves_max)
            {
                return Err(RecordKind::MapRoot.corrupt(OUTSIDE));
            }
            match root
                .leaves
                .iter()
                .find(|leaf| !objects.contains_key(&leaf.map))
            {
                None => Ok(root),
                Some(leaf) => {
                    let reason = format!("map object {} is not in the manifest", leaf.map.0);
                    Err(RecordKind::MapRoot.corrupt(reason))
                }
            }
        };
        self.leaves.object_reads().read(piece, decode).await
    }
}

/// What is wrong with an index or root that does not fit the image.
const OUTSIDE: &str = "it has pages beyond the image's end";

fn pages_of(manifest: &Manifest) -> u64 {
    manifest.size_bytes >> manifest.page_size.bits()
}

/// The page after the last that the segment says something about.
fn end_of(index: &SegmentIndex) -> u64 {
    let last_run = index.frames.last().and_then(|frame| frame.runs.last());
    let ends = [last_run, index.holes.last()].map(|run| run.map_or(0, |run| run.end().0));
    ends.into_iter().max().unwrap_or(0)
}

fn object_names(manifest: &Manifest) -> BTreeMap<MapObjectId, ObjectName> {
    manifest
        .maps
        .iter()
        .map(|entry| (entry.id, entry.name.clone()))
        .collect()
}

/// The manifest refers to something that it does not list.
fn unknown(manifest: &Manifest, what: String) -> ReadError {
    let object = manifest_key(&manifest.image, manifest.version);
    let reason = format!("it refers to {what}, which it does not list");
    tracing::error!(object, reason, "the manifest contradicts itself");
    ReadError::Corrupt {
        object,
        offset: 0,
        page: None,
        reason,
    }
}
