//! Carries out a map compaction: reads the old leaves, writes the new ones and the root.
//!
//! Memory is bounded by [`OLD_LEAVES_IN_FLIGHT_MAX`] leaves, the upload's parts and the root.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::merge::{PageBalance, merge_leaf};
use super::{CompactedMap, MapCompactionPlan};
use crate::engine::read::Map;
use crate::env::StoreError;
use crate::format::codec::ObjectSeed;
use crate::format::manifest::{
    ByteSpan, Manifest, MapObjectEntry, MapObjectId, RootEntry, SegmentId,
};
use crate::format::map_object::{Leaf, LeafNumber, MapFooter, MapHeader, Root, RootLeaf};
use crate::format::object_name::ObjectName;
use crate::object_reads::{Piece, ReadError};
use crate::store::UploadWriter;

/// Old leaves fetched at the same time, at most 64 KiB each.
const OLD_LEAVES_IN_FLIGHT_MAX: usize = 8;

/// Why a map compaction failed. Nothing was published; the map goes on as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapCompactionError {
    /// An old leaf could not be read.
    #[error("compacting the map: {0}")]
    Read(#[from] ReadError),
    /// The new map object could not be written.
    #[error("writing a map object: {0}")]
    Write(#[from] StoreError),
}

/// What to compact, and into what.
pub struct MapCompactionRequest<'a> {
    /// The map to be compacted.
    pub map: &'a Map,
    /// The manifest that this map is of: its segments, tail and map objects.
    pub manifest: &'a Manifest,
    /// Which leaves to write.
    pub plan: &'a MapCompactionPlan,
    /// The name of the new map object.
    pub name: ObjectName,
    /// Writes the object of that name; nothing was written yet.
    pub upload: UploadWriter,
}

/// Compacts the map.
///
/// # Errors
/// [`MapCompactionError`].
pub async fn compact(
    request: MapCompactionRequest<'_>,
) -> Result<CompactedMap, MapCompactionError> {
    let id = request.manifest.next_map;
    let (map, manifest) = (request.map, request.manifest);
    let mut object = MapObjectWriter::begin(id, request.name, request.upload, manifest).await?;
    let mut balance = PageBalance::default();
    let written = request.plan.written();
    let old_entries: BTreeMap<LeafNumber, RootLeaf> = map
        .root()
        .leaves
        .iter()
        .map(|leaf| (leaf.leaf, *leaf))
        .collect();
    let to_write: Vec<(LeafNumber, Option<RootLeaf>)> = written
        .iter()
        .map(|number| (*number, old_entries.get(number).copied()))
        .collect();
    let mut old_leaves = stream::iter(to_write)
        .map(|(number, entry)| {
            let fetched = async move {
                let old = match entry {
                    Some(entry) => Some(map.leaf(&entry).await?),
                    None => None,
                };
                Ok::<_, ReadError>((number, old))
            };
            fetched.boxed()
        })
        .buffered(OLD_LEAVES_IN_FLIGHT_MAX);
    while let Some((number, old)) = old_leaves.try_next().await? {
        let new = merge_leaf(number, old.as_deref(), map.overlay());
        balance.replaced(old.as_deref(), &new);
        let moves = request.plan.moved.contains(&number);
        let left_behind = moves && crate::mutant::is("a leaf that moves is left behind");
        if !new.extents.is_empty() && !left_behind {
            object.write_leaf(map, number, new).await?;
        }
    }
    drop(old_leaves);
    let kept = map
        .root()
        .leaves
        .iter()
        .filter(|leaf| !written.contains(&leaf.leaf));
    let mut root = Root {
        leaves: kept.chain(&object.leaves).copied().collect(),
    };
    root.leaves.sort_by_key(|leaf| leaf.leaf);
    let (entry, root_entry) = object.finish(&root).await?;
    let live_pages = balance
        .applied_to(live_pages_before(manifest))
        .ok_or_else(|| miscounted(map, manifest))?;
    Ok(conclude(map, manifest, root, entry, root_entry, live_pages))
}

fn conclude(
    map: &Map,
    manifest: &Manifest,
    root: Root,
    object: MapObjectEntry,
    root_entry: RootEntry,
    live_pages: BTreeMap<SegmentId, u32>,
) -> CompactedMap {
    let mut names: BTreeMap<MapObjectId, ObjectName> = BTreeMap::new();
    names.insert(object.id, object.name.clone());
    let used: BTreeSet<MapObjectId> = root.leaves.iter().map(|leaf| leaf.map).collect();
    let old_names = map.objects().iter().filter(|(id, _)| used.contains(id));
    names.extend(old_names.map(|(id, name)| (*id, name.clone())));
    CompactedMap {
        map: map.compacted(Arc::new(root), Arc::new(names), &live_pages),
        object,
        root: root_entry,
        live_pages,
        compacted: manifest.segments.iter().map(|entry| entry.id).collect(),
    }
}

/// Live pages of the segments that the base points to; the tail's pages are not in the base.
fn live_pages_before(manifest: &Manifest) -> BTreeMap<SegmentId, u32> {
    let tail: BTreeSet<SegmentId> = manifest.tail.iter().copied().collect();
    let compacted = manifest
        .segments
        .iter()
        .filter(|entry| !tail.contains(&entry.id));
    compacted
        .map(|entry| (entry.id, entry.live_pages))
        .collect()
}

/// The manifest's live counts and its leaves contradict each other.
fn miscounted(map: &Map, manifest: &Manifest) -> MapCompactionError {
    let root = manifest
        .root
        .and_then(|root| Some((root, map.objects().get(&root.map)?)));
    let reason = "the leaves do not have the live pages that the manifest counts".to_owned();
    let error = match root {
        Some((root, object)) => Piece {
            object,
            span: root.span,
            page: None,
        }
        .corrupt(reason),
        None => ReadError::Corrupt {
            object: crate::format::object_name::manifest_key(&manifest.image, manifest.version),
            offset: 0,
            page: None,
            reason,
        },
    };
    MapCompactionError::Read(error)
}

/// The new map object while it is being written.
struct MapObjectWriter {
    id: MapObjectId,
    name: ObjectName,
    seed: ObjectSeed,
    upload: UploadWriter,
    /// The leaves written so far, ascending.
    leaves: Vec<RootLeaf>,
}

impl MapObjectWriter {
    async fn begin(
        id: MapObjectId,
        name: ObjectName,
        mut upload: UploadWriter,
        manifest: &Manifest,
    ) -> Result<Self, StoreError> {
        assert_eq!(upload.position(), 0, "the upload is new");
        let seed = name.seed();
        let header = MapHeader {
            page_size: manifest.page_size,
        };
        upload.write(header.encode(seed)).await?;
        Ok(Self {
            id,
            name,
            seed,
            upload,
            leaves: Vec::new(),
        })
    }

    async fn write_leaf(
        &mut self,
        map: &Map,
        number: LeafNumber,
        leaf: Leaf,
    ) -> Result<(), StoreError> {
        let stored = leaf.encode(self.seed, number);
        let mut span = self.write(stored.clone()).await?;
        if let Some(first) = self.leaves.first()
            && crate::mutant::is("all leaves are said to be where the first one is")
        {
            span = first.span;
        }
        let entry = RootLeaf {
            leaf: number,
            map: self.id,
            span,
        };
        // Whoever wrote here is likely to read here.
        map.leaf_reads()
            .keep(&self.name, &entry, Arc::new(leaf), stored);
        self.leaves.push(entry);
        Ok(())
    }

    async fn write(&mut self, record: bytes::Bytes) -> Result<ByteSpan, StoreError> {
        let span = ByteSpan {
            offset: self.upload.position(),
            bytes: u32::try_from(record.len()).expect("a record is shorter than 4 GiB"),
        };
        self.upload.write(record).await?;
        Ok(span)
    }

    async fn finish(mut self, root: &Root) -> Result<(MapObjectEntry, RootEntry), StoreError> {
        let span = self.write(root.encode(self.seed)).await?;
        let footer = MapFooter {
            leaves: u32::try_from(self.leaves.len()).expect("fewer leaves than bytes"),
            root: Some(span),
        };
        self.write(footer.encode(self.seed)).await?;
        let size_bytes = self.upload.finish().await?;
        let entry = MapObjectEntry {
            id: self.id,
            name: self.name,
            size_bytes,
        };
        Ok((entry, RootEntry { map: self.id, span }))
    }
}
