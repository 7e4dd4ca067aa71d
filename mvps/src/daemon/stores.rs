//! The stores that the flags name.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use mvps_core::env::{BufferStores, ObjectStore};

use super::settings::ImageStoreChoice;
use crate::object_store::{LocalObjectStore, S3Location, S3ObjectStore};

/// The object store of this choice.
///
/// # Errors
/// If it cannot be used as it is given.
pub async fn open_object_store(choice: &ImageStoreChoice) -> anyhow::Result<Arc<dyn ObjectStore>> {
    match choice {
        ImageStoreChoice::S3 { bucket, prefix } => {
            let location = S3Location {
                bucket: bucket.clone(),
                prefix: prefix.clone(),
                endpoint: std::env::var("S3_ENDPOINT")
                    .ok()
                    .filter(|url| !url.is_empty()),
            };
            Ok(Arc::new(S3ObjectStore::connect(location).await))
        }
        ImageStoreChoice::Embedded | ImageStoreChoice::Local(_) => {
            let path = choice
                .local_path()
                .expect("a choice that is no bucket is a folder");
            let store = LocalObjectStore::open(&path);
            Ok(Arc::new(
                store.with_context(|| format!("opening {}", path.display()))?,
            ))
        }
    }
}

/// The buffer stores in this folder.
///
/// # Errors
/// If it cannot be used.
pub fn open_buffer_stores(folder: &Path) -> anyhow::Result<Arc<dyn BufferStores>> {
    anyhow::bail!(
        "{}: this build cannot open buffer stores yet",
        folder.display()
    )
}

/// This process as manifests name it to operators: host and process id.
#[must_use]
pub fn this_process() -> String {
    let host = ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown host".to_owned());
    format!("{host}, process {}", std::process::id())
}
