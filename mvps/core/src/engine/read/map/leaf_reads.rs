//! Leaves of the map, fetched when they are needed.
//!
//! Invariants: one leaf is fetched once at a time, however many look-ups miss it; what is kept is
//! bounded in bytes. One `LeafReads` may serve all images of a process.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;

use crate::engine::read::disk_pieces::DiskPieces;
use crate::engine::read::object_cache::{Footprint, ObjectCache};
use crate::engine::read::single_flight::{NewRequest, SingleFlight};
use crate::format::map_object::{Leaf, LeafExtent, RootLeaf};
use crate::format::object_name::ObjectName;
use crate::ids::PieceKey;
use crate::object_reads::{ObjectReads, Piece, ReadError};

/// Memory for leaves: the map of 64 GiB written in order, or of 8 GiB written page by page.
pub const LEAF_CACHE_BYTES: u64 = 32 << 20;

/// A leaf between the two extremes, whole frames and single pages, for sizing the cache.
const TYPICAL_LEAF_BYTES: u64 = 16 << 10;

impl Footprint for Leaf {
    fn footprint_bytes(&self) -> u64 {
        let extents = self.extents.capacity() * size_of::<LeafExtent>();
        (size_of::<Self>() + extents) as u64
    }
}

/// Leaves of maps: a bounded cache over verified reads, for all images of a process.
pub struct LeafReads {
    reads: ObjectReads,
    disk: DiskPieces,
    cache: Arc<ObjectCache<Leaf>>,
    flights: SingleFlight<PieceKey, Result<Arc<Leaf>, ReadError>>,
}

impl LeafReads {
    /// Leaves of objects in this store, of which at most `cache_bytes` are kept.
    #[must_use]
    pub fn new(reads: ObjectReads, cache_bytes: u64) -> Self {
        Self {
            reads,
            disk: DiskPieces::default(),
            cache: Arc::new(ObjectCache::new(cache_bytes, TYPICAL_LEAF_BYTES)),
            flights: SingleFlight::new(),
        }
    }

    /// The same, with this cache on the local disk below the one in memory.
    #[must_use]
    pub fn with_disk(self, disk: DiskPieces) -> Self {
        Self { disk, ..self }
    }

    /// The reads that leaves come through; roots and indexes use them too.
    #[must_use]
    pub fn object_reads(&self) -> &ObjectReads {
        &self.reads
    }

    /// The leaf, if it is resident.
    #[must_use]
    pub fn cached(&self, object: &ObjectName, leaf: &RootLeaf) -> Option<Arc<Leaf>> {
        self.cache.get(&object.piece_key(leaf.span.offset))
    }

    /// Keeps a leaf that was just written to `object`, where it is `stored` so.
    pub fn keep(&self, object: &ObjectName, at: &RootLeaf, leaf: Arc<Leaf>, stored: Bytes) {
        let key = object.piece_key(at.span.offset);
        self.disk.put(key, stored);
        self.cache.insert(key, leaf);
    }

    /// What the resident leaves take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.cache.used_bytes()
    }

    /// Fetches the leaf, and keeps it.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn fetch(
        &self,
        object: &ObjectName,
        leaf: &RootLeaf,
    ) -> Result<Arc<Leaf>, ReadError> {
        let key = object.piece_key(leaf.span.offset);
        let mut flights = self.flights.join(&[key], |_| {
            let request = match self.cache.peek(&key) {
                Some(leaf) => std::future::ready(Ok(leaf)).boxed(),
                None => self.request(object.clone(), *leaf, key).boxed(),
            };
            vec![NewRequest {
                keys: vec![key],
                request,
            }]
        });
        flights.remove(0).await
    }

    fn request(
        &self,
        object: ObjectName,
        at: RootLeaf,
        key: PieceKey,
    ) -> impl Future<Output = Result<Arc<Leaf>, ReadError>> + Send + use<> {
        let (reads, cache) = (self.reads.clone(), Arc::clone(&self.cache));
        let disk = self.disk.clone();
        async move {
            let piece = Piece {
                object: &object,
                span: at.span,
                page: None,
            };
            let decode = |seed, stored: &Bytes| Leaf::decode(seed, at.leaf, stored);
            let on_disk = disk.stored(piece).await;
            let on_disk = on_disk.map(|stored| decode(object.seed(), &stored));
            let leaf = match on_disk.and_then(|decoded| disk.accept(piece, decoded)) {
                Some(leaf) => leaf,
                None => {
                    let keep = |seed, stored: Bytes| Ok((decode(seed, &stored)?, stored));
                    let (leaf, stored) = reads.read(piece, keep).await?;
                    disk.put(key, stored);
                    leaf
                }
            };
            let leaf = Arc::new(leaf);
            cache.insert(key, Arc::clone(&leaf));
            Ok(leaf)
        }
    }
}
