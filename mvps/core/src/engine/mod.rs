//! One open image: how a write becomes durable.
//!
//! Read the rooms in this order; each imports only those named before it or below it:
//! 1. [`handle`]: what sessions and administration hold, and what they ask with [`request`] and
//!    [`reply`].
//! 2. `task`: the task that owns the image's mutable state. `transaction`: what transactions read
//!    and wrote, and what conflicts.
//! 3. [`buffer`]: what waits in the buffer store. [`read`]: what is where as of one LSN, from the
//!    buffer to object storage and back to a page.
//! 4. [`publisher`]: from the buffer to object storage, and how space there is won back.
//! 5. `open` puts all of it together. [`host`] is what the images of a process share.
//!
//! Architecture invariants: the engine starts tasks only through `Spawner`, at named places; only
//! the image's task changes the image's state; only the publisher's job publishes; nothing in here
//! deletes an object. A field is visible in its own room only.

pub mod buffer;
mod buffer_budget;
mod config;
mod error;
mod handle;
mod host;
mod limits;
mod memory_shares;
mod open;
pub mod publisher;
pub mod read;
mod reply;
mod request;
mod status;
mod task;
mod transaction;
pub mod transaction_budget;
mod upload_budget;

pub use buffer_budget::{BufferLimit, DiskLimits};
pub use config::EngineConfig;
pub use error::EngineError;
pub use handle::{Attachment, Image, PublishedVersion, PublishedVersionError, Transaction};
pub use host::Host;
pub use limits::Limits;
pub use memory_shares::MemoryShares;
pub use open::{OpenError, open};
pub use publisher::{CompactionSettings, SpaceStatus};
pub use read::{Base, Extent, View};
pub use reply::{Acknowledge, Durability, RolledBack};
pub use status::{HeldUp, ImageStatus};
pub use transaction::WINDOW_FULL;

pub use crate::protocol::{Intent, OpeningRequest, Since};

#[cfg(test)]
mod tests;
