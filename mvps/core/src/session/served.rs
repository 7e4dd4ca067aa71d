//! What a server serves: an image as it changes, or one published version of it, read-only.
//!
//! The engine's types stay as they are; this file says what a session may do with them.

use std::ops::Range;

use bytes::Bytes;

use super::disk::{Disk, DiskTransaction, Outcome, ReadAt, WriteAt};
use super::images::OpenImage;
use super::version_export::VersionExport;
use crate::content::Content;
use crate::engine::{
    Acknowledge, Attachment, Base, Durability, EngineError, Extent, Image, PublishedVersion, Since,
    Transaction,
};
use crate::ids::{PageSize, Version};

/// An open image, or an open version of one.
#[derive(Clone)]
pub enum ServedImage {
    /// The image as it changes. This server is its active writer.
    Live(Image),
    /// A published version of it, which does not change.
    Version(Box<VersionExport>),
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
            Self::Version(export) => ServedDisk::Version(Box::new(export.version().clone())),
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

/// What a connection works on.
#[derive(Clone)]
pub enum Access<L> {
    /// An image, through `L`.
    Live(L),
    /// A version, which does not change.
    Version(Box<PublishedVersion>),
}

/// One connection's access.
pub type ServedDisk = Access<Attachment>;

/// A transaction; one on a version only reads.
pub type ServedTransaction = Access<Transaction>;

impl<L> Access<L> {
    fn live(&self) -> Result<&L, EngineError> {
        match self {
            Self::Live(live) => Ok(live),
            Self::Version(_) => Err(READ_ONLY),
        }
    }
}

impl<L: ReadAt<Base = Base>> ReadAt for Access<L> {
    type Base = Base;

    async fn read(&self, offset: u64, length: u32) -> Result<Content, EngineError> {
        match self {
            Self::Live(live) => live.read(offset, length).await,
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
            Self::Live(live) => live.extents(range, base, extents_max).await,
            Self::Version(version) => version.extents(offset, length, base, extents_max).await,
        }
    }
}

impl<L: WriteAt> WriteAt for Access<L> {
    type When = L::When;

    async fn write(&self, offset: u64, data: Bytes, when: L::When) -> Result<(), EngineError> {
        self.live()?.write(offset, data, when).await
    }

    async fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        when: L::When,
    ) -> Result<(), EngineError> {
        self.live()?.write_zeroes(offset, length, when).await
    }

    async fn trim(&self, offset: u64, length: u64, when: L::When) -> Result<(), EngineError> {
        self.live()?.trim(offset, length, when).await
    }
}

impl Disk for ServedDisk {
    type Transaction = ServedTransaction;

    async fn find_base(&self, since: &Since) -> Result<Version, EngineError> {
        match self {
            Self::Live(disk) => disk.find_base(since).await,
            Self::Version(version) => version.find_base(since).await,
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
            Self::Live(disk) => Ok(Access::Live(disk.begin().await?)),
            Self::Version(version) => Ok(Access::Version(version.clone())),
        }
    }
}

impl DiskTransaction for ServedTransaction {
    async fn lock(&self) -> Result<(), EngineError> {
        self.live()?.lock().await
    }

    async fn commit(self, when: Acknowledge) -> Result<(), EngineError> {
        match self {
            Self::Live(transaction) => transaction.commit(when).await,
            // It changed nothing, and what it read does not change.
            Self::Version(_) => Ok(()),
        }
    }
}

impl ReadAt for Attachment {
    type Base = Base;

    fn read(&self, offset: u64, length: u32) -> impl Outcome<Content> {
        Attachment::read(self, offset, length)
    }

    fn extents(
        &self,
        range: Range<u64>,
        base: Option<&Base>,
        extents_max: usize,
    ) -> impl Outcome<Vec<Extent>> {
        Attachment::extents(
            self,
            range.start,
            range.end - range.start,
            base,
            extents_max,
        )
    }
}

impl WriteAt for Attachment {
    type When = Acknowledge;

    fn write(&self, offset: u64, data: Bytes, when: Acknowledge) -> impl Outcome {
        Attachment::write(self, offset, data, when)
    }

    fn write_zeroes(&self, offset: u64, length: u64, when: Acknowledge) -> impl Outcome {
        Attachment::write_zeroes(self, offset, length, when)
    }

    fn trim(&self, offset: u64, length: u64, when: Acknowledge) -> impl Outcome {
        Attachment::trim(self, offset, length, when)
    }
}

impl ReadAt for Transaction {
    type Base = Base;

    fn read(&self, offset: u64, length: u32) -> impl Outcome<Content> {
        Transaction::read(self, offset, length)
    }

    fn extents(
        &self,
        range: Range<u64>,
        base: Option<&Base>,
        extents_max: usize,
    ) -> impl Outcome<Vec<Extent>> {
        Transaction::extents(
            self,
            range.start,
            range.end - range.start,
            base,
            extents_max,
        )
    }
}

impl WriteAt for Transaction {
    type When = ();

    fn write(&self, offset: u64, data: Bytes, (): ()) -> impl Outcome {
        Transaction::write(self, offset, data)
    }

    fn write_zeroes(&self, offset: u64, length: u64, (): ()) -> impl Outcome {
        Transaction::write_zeroes(self, offset, length)
    }

    fn trim(&self, offset: u64, length: u64, (): ()) -> impl Outcome {
        Transaction::trim(self, offset, length)
    }
}
