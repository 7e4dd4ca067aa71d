//! From an LSN to the bytes of a page.
//!
//! `view`: the image as of one LSN, for any number of readers. `extents`: which of it is there at
//! all, and which changed since a `base`. `map`: page to location in object storage.
//! `frame_reader`: verified frames of segments, with `object_cache`, `disk_pieces`, `single_flight`
//! and `read_ahead` below it.
//!
//! Invariants: everything here is immutable once made, or a cache. Must never: change the image.

mod base;
mod disk_pieces;
mod extents;
mod frame_reader;
mod map;
mod object_cache;
mod read_ahead;
mod single_flight;
mod view;

pub use base::Base;
pub use disk_pieces::DiskPieces;
pub use extents::Extent;
pub use frame_reader::{FrameReader, FrameReads, FrameReadsByLevel};
#[cfg(test)]
pub(in crate::engine) use map::test_world;
pub(in crate::engine) use map::{LEAF_CACHE_BYTES, for_each_extent};
pub use map::{LeafReads, Map, MapRun, PageLocation};
pub use view::{MapGuard, View};
pub(in crate::engine) use view::{OldPage, buffered_page};
