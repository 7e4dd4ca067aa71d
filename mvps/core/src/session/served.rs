//! What a server serves: an image as it changes, or one published version of it, read-only.

use std::ops::Range;

use bytes::Bytes;

use super::disk::{Disk, DiskTransaction, Outcome};
use super::images::OpenImage;
use super::version_export::VersionExport;
use crate::content::Content;
use crate::engine::{
    Acknowledge, Attachment, Base, Durability, EngineError, Extent, Image, PublishedVersion, Since,
    Transaction,
};
use crate::ids::{PageSize, Version};

/// See the module's text.
#[derive(Clone)]
pub enum ServedImage {
    /// The image, in this server's office.
    Live(Image),
    /// A version of it.
    Version(VersionExport),
}

impl ServedImage {
    /// The image, if it is served as it changes.
    #[must_use]
    pub fn live(&self) -> Option<&Image> {
        match self {
            Self::Live(image) => Some(image),
            Self::Version(_) => None,
        }
    }
}

/// Requests to change a version are refused before they get here, because its export is read-only.
const READ_ONLY: EngineError = EngineError::Invalid {
    reason: "a published version does not change",
};

impl OpenImage for ServedImage {
    type Disk = ServedDisk;

    fn page_size(&self) -> PageSize {
        match self {
            Self::Live(image) => image.page_size(),
            Self::Version(export) => export.version().page_size(),
        }
    }

    fn size_bytes(&self) -> u64 {
        match self {
            Self::Live(image) => image.size_bytes(),
            Self::Version(export) => export.version().size_bytes(),
        }
    }

    fn attach(&self) -> ServedDisk {
        match self {
            Self::Live(image) => ServedDisk::Live(image.attach()),
            Self::Version(export) => ServedDisk::Version(export.version().clone()),
        }
    }

    async fn grow(&self, size_bytes: u64) -> Result<(), EngineError> {
        match self {
            Self::Live(image) => image.grow(size_bytes).await,
            Self::Version(_) => Err(READ_ONLY),
        }
    }

    async fn checkpoint(&self) -> Result<Version, EngineError> {
        match self {
            Self::Live(image) => image.checkpoint().await,
            Self::Version(export) => Ok(export.version().version()),
        }
    }

    async fn is_settled(&self) -> bool {
        match self {
            Self::Live(image) => image.status().await.is_none_or(|it| it.is_settled()),
            Self::Version(_) => true,
        }
    }

    async fn close(&self) -> Result<(), EngineError> {
        match self {
            Self::Live(image) => image.close().await,
            Self::Version(export) => export.close().await,
        }
    }
}

/// One connection's access.
#[derive(Clone)]
pub enum ServedDisk {
    /// To an image.
    Live(Attachment),
    /// To a version.
    Version(PublishedVersion),
}

impl Disk for ServedDisk {
    type Transaction = ServedTransaction;
    type Base = Base;

    async fn read(&self, offset: u64, length: u32) -> Result<Content, EngineError> {
        match self {
            Self::Live(disk) => disk.read(offset, length).await,
            Self::Version(version) => version.read(offset, length).await,
        }
    }

    async fn extents(
        &self,
        range: Range<u64>,
        base: Option<&Base>,
        extents_max: usize,
    ) -> Result<Vec<Extent>, EngineError> {
        let (offset, length) = (range.start, range.end - range.start);
        match self {
            Self::Live(disk) => disk.extents(offset, length, base, extents_max).await,
            Self::Version(version) => version.extents(offset, length, base, extents_max).await,
        }
    }

    async fn find_base(&self, since: &Since) -> Result<Version, EngineError> {
        match self {
            Self::Live(disk) => disk.find_base(since).await,
            Self::Version(shown) => shown.find_base(since).await,
        }
    }

    async fn base(&self, version: Version) -> Result<Base, EngineError> {
        match self {
            Self::Live(disk) => disk.base(version).await,
            Self::Version(shown) => shown.base(version).await,
        }
    }

    async fn prefetch(&self, offset: u64, length: u64) -> Result<(), EngineError> {
        match self {
            Self::Live(disk) => disk.prefetch(offset, length).await,
            Self::Version(version) => version.prefetch(offset, length).await,
        }
    }

    async fn write(&self, offset: u64, data: Bytes, when: Acknowledge) -> Result<(), EngineError> {
        self.live()?.write(offset, data, when).await
    }

    async fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        when: Acknowledge,
    ) -> Result<(), EngineError> {
        self.live()?.write_zeroes(offset, length, when).await
    }

    async fn trim(&self, offset: u64, length: u64, when: Acknowledge) -> Result<(), EngineError> {
        self.live()?.trim(offset, length, when).await
    }

    async fn flush(&self, durability: Durability) -> Result<(), EngineError> {
        match self {
            Self::Live(disk) => disk.flush(durability).await,
            // Everything in it is published.
            Self::Version(_) => Ok(()),
        }
    }

    async fn revoke(&self) {
        if let Self::Live(disk) = self {
            disk.revoke().await;
        }
    }

    async fn begin(&self) -> Result<ServedTransaction, EngineError> {
        match self {
            Self::Live(disk) => Ok(ServedTransaction::Live(disk.begin().await?)),
            Self::Version(version) => Ok(ServedTransaction::Version(version.clone())),
        }
    }
}

impl ServedDisk {
    fn live(&self) -> Result<&Attachment, EngineError> {
        match self {
            Self::Live(disk) => Ok(disk),
            Self::Version(_) => Err(READ_ONLY),
        }
    }
}

/// A transaction; one on a version only reads.
pub enum ServedTransaction {
    /// On an image.
    Live(Transaction),
    /// On a version.
    Version(PublishedVersion),
}

impl ServedTransaction {
    fn live(&self) -> Result<&Transaction, EngineError> {
        match self {
            Self::Live(transaction) => Ok(transaction),
            Self::Version(_) => Err(READ_ONLY),
        }
    }
}

impl DiskTransaction for ServedTransaction {
    type Base = Base;

    async fn read(&self, offset: u64, length: u32) -> Result<Content, EngineError> {
        match self {
            Self::Live(transaction) => transaction.read(offset, length).await,
            Self::Version(version) => version.read(offset, length).await,
        }
    }

    async fn extents(
        &self,
        range: Range<u64>,
        base: Option<&Base>,
        extents_max: usize,
    ) -> Result<Vec<Extent>, EngineError> {
        let (offset, length) = (range.start, range.end - range.start);
        match self {
            Self::Live(transaction) => transaction.extents(offset, length, base, extents_max).await,
            Self::Version(version) => version.extents(offset, length, base, extents_max).await,
        }
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<(), EngineError> {
        self.live()?.write(offset, data).await
    }

    async fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), EngineError> {
        self.live()?.write_zeroes(offset, length).await
    }

    async fn trim(&self, offset: u64, length: u64) -> Result<(), EngineError> {
        self.live()?.trim(offset, length).await
    }

    async fn lock(&self) -> Result<(), EngineError> {
        self.live()?.lock().await
    }

    fn commit(self, when: Acknowledge) -> impl Outcome {
        async move {
            match self {
                Self::Live(transaction) => transaction.commit(when).await,
                // It changed nothing, and what it read does not change.
                Self::Version(_) => Ok(()),
            }
        }
    }
}
