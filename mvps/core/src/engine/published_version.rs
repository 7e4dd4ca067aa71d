//! One published version of an image, for reading: no buffer store, no tenure, no task.
//!
//! Invariant: whoever opens one keeps the version pinned for as long as anybody reads it
//! (protocol §4.7); this does not look.

use std::sync::Arc;

use super::error::EngineError;
use super::frame_reader::FrameReader;
use super::host::Host;
use super::map::Map;
use super::object_reads::ReadError;
use super::view::{MapGuard, ReadBytes, View};
use crate::format::manifest::Manifest;
use crate::ids::{ImageId, PageSize, Version};

/// See the module's text. Clones are the same version.
#[derive(Clone)]
pub struct PublishedVersion {
    image: ImageId,
    version: Version,
    view: Arc<View>,
}

impl PublishedVersion {
    /// Opens the version that `manifest` publishes.
    ///
    /// # Errors
    /// [`ReadError`] if its map cannot be read.
    pub async fn open(host: &Host, manifest: &Manifest) -> Result<Self, ReadError> {
        let map = Map::open(manifest, Arc::clone(&host.leaves)).await?;
        let frames = FrameReader::new(Arc::clone(&host.frames), manifest.page_size);
        let view = View {
            lsn: manifest.lsn,
            size_bytes: manifest.size_bytes,
            page_size: manifest.page_size,
            generations: Vec::new(),
            map,
            guard: Arc::new(MapGuard(0)),
            frames: Arc::new(frames),
        };
        Ok(Self {
            image: manifest.image.clone(),
            version: manifest.version,
            view: Arc::new(view),
        })
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> &ImageId {
        &self.image
    }

    /// Which version it is.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The image's page size.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.view.page_size
    }

    /// The image's size in that version.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.view.size_bytes
    }

    /// Reads `length` bytes at `offset`.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] past the end, otherwise as [`View::read`].
    pub async fn read(&self, offset: u64, length: u32) -> Result<ReadBytes, EngineError> {
        let end = offset.checked_add(u64::from(length));
        if end.is_none_or(|end| end > self.size_bytes()) {
            return Err(EngineError::Invalid {
                reason: "the range reaches past the end of the image",
            });
        }
        self.view.read(offset, length as usize).await
    }
}
