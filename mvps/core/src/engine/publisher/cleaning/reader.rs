//! How cleaning reads frames: apart from what clients read.

use std::sync::Arc;

use crate::encryption::ImageKeys;
use crate::engine::host::Host;
use crate::engine::read::{FrameReader, FrameReads};
use crate::ids::PageSize;

/// Memory for frames that cleaning reads, apart from the cache that clients use: what one batch
/// leaves half read, the next one finds.
const CACHE_BYTES: u64 = 8 << 20;

/// A reader of frames that shares nothing with those of clients.
pub(in crate::engine) fn own_reader(
    host: &Host,
    page_size: PageSize,
    keys: Arc<ImageKeys>,
) -> FrameReader {
    let reads = host.leaves.object_reads().clone();
    let spawner = Arc::clone(&host.environment.spawner);
    let frames = FrameReads::new(reads, spawner, CACHE_BYTES);
    FrameReader::new(Arc::new(frames), page_size, keys)
}
