//! One open image: how a write becomes durable.
//!
//! Read in this order:
//! 1. [`image`] and [`transaction`]: what callers see; [`changes`]: bytes as changes of pages.
//! 2. `task`, `commit`, `acknowledge`, `schedule`: the task that owns the image's state.
//! 3. [`buffer_index`], [`view`], [`range_map`]: what is where, as of one LSN, for readers;
//!    [`extents`]: which of it is there at all, and which changed.
//! 4. `job`, `checkpoint`, [`segment_writer`], [`fold`], [`cleaning`]: from the buffer to object
//!    storage, and how space there is won back; `rollback`: back to an earlier version.
//! 5. [`map`], [`frame_reader`], [`object_reads`]: from object storage back to a page.
//! 6. [`protocol`]: opening, publication, tenure.
//!
//! Architecture invariants: the engine starts tasks only through `Spawner`, at named places; only
//! the image's task changes the image's state; only the publisher's job publishes; nothing in here
//! deletes an object.

mod acknowledge;
pub mod backpressure;
mod bases;
pub mod buffer_index;
pub mod changes;
mod checkpoint;
pub mod cleaning;
mod commit;
mod config;
mod conflict;
mod error;
mod event;
pub mod extents;
pub mod fold;
pub mod frame_reader;
mod host;
pub mod image;
mod job;
pub mod map;
pub mod object_cache;
pub mod object_reads;
mod open;
pub mod protocol;
mod published_version;
pub mod range_map;
pub mod read_ahead;
mod rollback;
mod schedule;
pub mod segment_writer;
pub mod single_flight;
mod status;
mod task;
pub mod transaction;
pub mod transaction_room;
mod transactions;
pub mod view;

pub use bases::Base;
pub use cleaning::{CompactionSettings, SpaceStatus};
pub use config::EngineConfig;
pub use error::EngineError;
pub use event::{Acknowledge, Durability};
pub use extents::{Extent, Since};
pub use host::Host;
pub use image::{Attachment, Image};
pub use open::{OpenError, open};
pub use protocol::{Intent, OpeningRequest};
pub use published_version::{PublishedVersion, PublishedVersionError};
pub use rollback::RolledBack;
pub use status::ImageStatus;
pub use transaction::Transaction;
pub use view::View;

#[cfg(test)]
mod tests;
