//! The disk cache of the server: slabs of [`mvps_core::frame_cache`] on real files, and their index
//! in fjall.
//!
//! ```text
//! <cache path>/mvps-disk-cache/slabs/lock, slab-…    <cache path>/mvps-disk-cache/index/…
//! ```
//!
//! Must never: keep a server from starting. Whatever is wrong with the cache, it goes without.

mod index;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;

use mvps_core::env::FrameCache;
use mvps_core::frame_cache::{CacheIndex, SlabCache, SlabCacheSettings};

pub use index::FjallIndex;

use crate::files::{SystemFiles, make_folders};
use crate::runtime::OsEntropy;

/// The cache's content is that of images, sealed or not: nobody else's business.
const FOLDER_MODE: u32 = 0o700;

/// Most that the cache takes unless it is told otherwise.
const DEFAULT_MAX_BYTES: u64 = 10 << 30;

/// Nor more than one part in this many of its file system.
const FILE_SYSTEM_DIVISOR: u64 = 10;

/// What is in it is the cache's, and may be removed; what is beside it may be anybody's.
const OWN_FOLDER: &str = "mvps-disk-cache";

/// Gives the room of a cache in this folder back that is not used any more.
pub async fn remove_disk_cache(folder: &Path) {
    if folder.join(OWN_FOLDER).is_dir()
        && let Some(cache) = open_disk_cache(folder, SlabCacheSettings::new(0)).await
    {
        cache.settled().await;
        tracing::info!(folder = %folder.display(), "the disk cache is off, and empty");
    }
}

/// Opens the cache in this folder; none if that cannot be done.
pub async fn open_disk_cache(
    folder: &Path,
    settings: SlabCacheSettings,
) -> Option<Arc<dyn FrameCache>> {
    let folder = &folder.join(OWN_FOLDER);
    let files = Arc::new(SystemFiles::new(folder));
    let index = folder.join("index");
    let open_index = move || -> io::Result<Arc<dyn CacheIndex>> {
        Ok(Arc::new(FjallIndex::open(&index, &OsEntropy)?))
    };
    match SlabCache::open(files, Arc::new(OsEntropy), settings, open_index).await {
        Ok(cache) => Some(Arc::new(cache)),
        Err(error) => {
            tracing::warn!(%error, "there is no disk cache");
            None
        }
    }
}

/// How much a cache in this folder takes that nobody gave a limit: 10 GiB, or a tenth of its file
/// system, whichever is smaller. Makes the folder.
///
/// # Errors
/// What the system says.
pub fn default_limit_bytes(folder: &Path) -> io::Result<u64> {
    make_folders(folder, FOLDER_MODE)?;
    let system = rustix::fs::statvfs(folder)?;
    let tenth = system.f_blocks.saturating_mul(system.f_frsize) / FILE_SYSTEM_DIVISOR;
    Ok(tenth.min(DEFAULT_MAX_BYTES))
}
