//! What sessions and administration hold: an open [`Image`], a connection's [`Attachment`], a
//! [`Transaction`], a [`PublishedVersion`].
//!
//! Handles send events to the image's task and read views that it publishes; they hold no state of
//! the image. Must never: wait for the task while holding something that the task needs.

mod attachment;
mod bases;
mod image;
mod published_version;
mod rollback;
mod shared;
mod transaction;

pub use attachment::Attachment;
pub(in crate::engine) use bases::Bases;
pub use image::Image;
pub use published_version::{PublishedVersion, PublishedVersionError};
pub(in crate::engine) use shared::{Gauges, Shared};
pub use transaction::Transaction;
