//! One published version of an image, for reading: no buffer store, no tenure, no task.
//!
//! Invariant: whoever opens one keeps the version pinned for as long as anybody reads it
//! (protocol §4.7); this does not look.

use std::sync::Arc;

use super::bases::Bases;
use crate::content::Content;
use crate::encryption::KeyError;
use crate::engine::error::EngineError;
use crate::engine::host::Host;
use crate::engine::read::{Base, Extent, FrameReader, Map, MapGuard, View};
use crate::format::manifest::Manifest;
use crate::ids::{ImageId, PageSize, Version};
use crate::object_reads::ReadError;
use crate::protocol::{Since, usable_keys};

/// One published version of an image, read-only. Clones are the same version.
#[derive(Clone)]
pub struct PublishedVersion {
    image: ImageId,
    version: Version,
    view: Arc<View>,
    host: Host,
    bases: Arc<Bases>,
}

/// Why a version was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishedVersionError {
    /// Its map cannot be read.
    #[error("cannot read the version's map: {0}")]
    Map(#[from] ReadError),
    /// Its data keys cannot be had.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl PublishedVersion {
    /// Opens the version that `manifest` publishes, with the data keys of the image's newest one.
    ///
    /// # Errors
    /// [`PublishedVersionError`].
    pub async fn open(host: &Host, manifest: &Manifest) -> Result<Self, PublishedVersionError> {
        let keys = Arc::new(usable_keys(&host.root_keys, manifest)?);
        let map = Map::open(manifest, Arc::clone(&host.leaves)).await?;
        let frames = FrameReader::new(Arc::clone(&host.frames), manifest.page_size, keys);
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
            host: host.clone(),
            bases: Arc::default(),
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
    pub async fn read(&self, offset: u64, length: u32) -> Result<Content, EngineError> {
        self.check_range(offset, u64::from(length))?;
        self.view.read(offset, length as usize).await
    }

    /// What of the range has content, or differs from `base`: see [`View::extents`].
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub async fn extents(
        &self,
        offset: u64,
        length: u64,
        base: Option<&Base>,
        extents_max: usize,
    ) -> Result<Vec<Extent>, EngineError> {
        self.check_range(offset, length)?;
        let range = offset..offset + length;
        self.view.extents(range, base, extents_max).await
    }

    /// See [`crate::engine::Attachment::find_base`].
    ///
    /// # Errors
    /// As there.
    pub async fn find_base(&self, since: &Since) -> Result<Version, EngineError> {
        self.bases.find(&self.host, &self.image, since).await
    }

    /// See [`crate::engine::Attachment::base`].
    ///
    /// # Errors
    /// As there.
    pub async fn base(&self, version: Version) -> Result<Base, EngineError> {
        self.bases.get(&self.host, &self.image, version).await
    }

    /// See [`View::prefetch`].
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub async fn prefetch(&self, offset: u64, length: u64) -> Result<(), EngineError> {
        self.check_range(offset, length)?;
        self.view.prefetch(offset..offset + length).await
    }

    fn check_range(&self, offset: u64, length: u64) -> Result<(), EngineError> {
        let end = offset.checked_add(length);
        if end.is_some_and(|end| end <= self.size_bytes()) {
            Ok(())
        } else {
            Err(EngineError::Invalid {
                reason: "the range reaches past the end of the image",
            })
        }
    }
}
