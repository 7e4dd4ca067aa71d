//! An earlier state of an image that content is compared with.

use tokio::sync::OwnedSemaphorePermit;

use super::map::Map;

/// An earlier state of the image, in use.
pub struct Base {
    pub(in crate::engine) map: Map,
    pub(in crate::engine) _permit: Option<OwnedSemaphorePermit>,
}
