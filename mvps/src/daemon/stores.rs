//! The stores that the flags name.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use mvps_core::content_log::LogBufferStores;
use mvps_core::env::{BufferStores, FrameCache, ObjectStore};
use mvps_core::frame_cache::SlabCacheSettings;

use crate::files::SystemFiles;
use crate::frame_cache;
use crate::object_store::{LocalObjectStore, S3Location, S3ObjectStore};
use crate::runtime::OsEntropy;

use super::settings::{DiskCacheSettings, ImageStoreChoice};

/// Environment variable that names the S3 server if it is not Amazon's.
pub const ENDPOINT_VARIABLE: &str = "S3_ENDPOINT";

/// The object store of this choice. Sends nothing to it yet.
///
/// # Errors
/// If it cannot be used as it is given.
pub async fn open_object_store(choice: &ImageStoreChoice) -> anyhow::Result<Arc<dyn ObjectStore>> {
    match choice {
        ImageStoreChoice::Embedded => open_local(&choice.local_path().unwrap_or_default()),
        ImageStoreChoice::Local(path) => open_local(path),
        ImageStoreChoice::S3 { bucket, prefix } => {
            let endpoint = std::env::var(ENDPOINT_VARIABLE)
                .ok()
                .filter(|url| !url.is_empty());
            let location = S3Location {
                bucket: bucket.clone(),
                prefix: prefix.clone(),
                endpoint,
            };
            Ok(Arc::new(S3ObjectStore::connect(location).await?))
        }
    }
}

fn open_local(folder: &Path) -> anyhow::Result<Arc<dyn ObjectStore>> {
    let store = LocalObjectStore::open(folder).with_context(|| {
        format!(
            "the object store folder {} cannot be used",
            folder.display()
        )
    })?;
    Ok(Arc::new(store))
}

/// Subfolder of the buffer store path that holds one folder per image. An image may be called like
/// the lock or the control socket beside it.
const IMAGES_FOLDER: &str = "images";

/// The buffer stores in this folder.
#[must_use]
pub fn open_buffer_stores(folder: &Path) -> Arc<dyn BufferStores> {
    let files = SystemFiles::new(folder.join(IMAGES_FOLDER));
    Arc::new(LogBufferStores::new(Arc::new(files), Arc::new(OsEntropy)))
}

/// The least that a disk cache takes, unless it is off: room is made 64 MiB at a time.
pub const DISK_CACHE_MIN_BYTES: u64 = 256 << 20;

/// The disk cache that is asked for; none if it is off, or cannot be used.
pub async fn open_disk_cache(
    settings: &DiskCacheSettings,
    choice: &ImageStoreChoice,
) -> Option<Arc<dyn FrameCache>> {
    let path = &settings.path;
    let limit_bytes = match settings.limit_bytes {
        Some(bytes) => bytes,
        // The objects are on a local disk already.
        None if choice.local_path().is_some() => 0,
        None => frame_cache::default_limit_bytes(path).unwrap_or_else(|error| {
            tracing::warn!(%error, folder = %path.display(), "there is no disk cache");
            0
        }),
    };
    if limit_bytes < DISK_CACHE_MIN_BYTES {
        frame_cache::remove_disk_cache(path).await;
        return None;
    }
    frame_cache::open_disk_cache(path, SlabCacheSettings::new(limit_bytes)).await
}

/// This process as manifests name it to operators: host and process id.
#[must_use]
pub fn this_process() -> String {
    let host = host_name().unwrap_or_else(|| "unknown host".to_owned());
    format!("{host}, process {}", std::process::id())
}

/// The machine's name, if it has one.
pub(super) fn host_name() -> Option<String> {
    ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
}
