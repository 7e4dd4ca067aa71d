//! Where a server's images come from: the seam between sessions and the opening of images.

use super::disk::Disk;
use crate::engine::EngineError;
use crate::ids::{ImageId, PageSize, Version};
use crate::protocol::Since;
use crate::token::Grant;

/// Why an image cannot be served now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct OpenFailure {
    /// For the log: what the operator can do.
    pub reason: String,
    /// For the client, which is permitted to use the image; `None` sends it to the server's log.
    pub told: Option<&'static str>,
}

/// An open image.
pub trait OpenImage: Clone + Send + Sync + 'static {
    /// One connection's access.
    type Disk: Disk;

    /// Its page size.
    fn page_size(&self) -> PageSize;
    /// Its size.
    fn size_bytes(&self) -> u64;
    /// Access for one more connection.
    fn attach(&self) -> Self::Disk;
    /// Makes it at least this large; the new size is published when this returns.
    fn grow(&self, size_bytes: u64) -> impl Future<Output = Result<(), EngineError>> + Send;
    /// Publishes everything that was acknowledged before.
    fn checkpoint(&self) -> impl Future<Output = Result<Version, EngineError>> + Send;
    /// Whether what was written so far is published and cleaned up after.
    fn is_settled(&self) -> impl Future<Output = bool> + Send;
    /// Publishes everything, and that no server is the active writer any more; releases the image.
    fn close(&self) -> impl Future<Output = Result<(), EngineError>> + Send;
}

/// What an image is, as far as its newest manifest says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageFacts {
    /// Its size.
    pub size_bytes: u64,
    /// Its page size.
    pub page_size: PageSize,
}

/// All images that a server may open.
pub trait Images: Send + Sync + 'static {
    /// An open one.
    type Image: OpenImage;

    /// Becomes the active writer of the image that `grant` names and opens it. Creates it where the
    /// grant says so. Waits while the object store is unavailable. Cancelling it is like a crash.
    fn open(&self, grant: &Grant) -> impl Future<Output = Result<Self::Image, OpenFailure>> + Send;

    /// Looks at what `grant` shows without opening it; `None` if there is no such image.
    fn look(
        &self,
        grant: &Grant,
    ) -> impl Future<Output = Result<Option<ImageFacts>, OpenFailure>> + Send;

    /// Whether an earlier state of an image is retained.
    fn retains(
        &self,
        image: &ImageId,
        since: &Since,
    ) -> impl Future<Output = Result<bool, OpenFailure>> + Send;

    /// All snapshots of an image, and so many of its newest versions.
    fn list_retained(
        &self,
        image: &ImageId,
        versions_max: usize,
    ) -> impl Future<Output = Result<Vec<Since>, OpenFailure>> + Send;
}
