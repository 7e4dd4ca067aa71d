//! The stores that the flags name.

use std::path::Path;
use std::sync::Arc;

use mvps_core::env::{BufferStores, ObjectStore};

use super::settings::ImageStoreChoice;

/// The object store of this choice.
///
/// # Errors
/// If it cannot be used as it is given.
pub async fn open_object_store(choice: &ImageStoreChoice) -> anyhow::Result<Arc<dyn ObjectStore>> {
    anyhow::bail!("{choice}: this build cannot open object stores yet")
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
