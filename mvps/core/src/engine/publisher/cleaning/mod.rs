//! Cleaning: live pages are copied out of segments that are mostly dead, or many and tiny, so that
//! the next map compaction drops those segments.
//!
//! Read [`plan`] (which segments, pure), then `round` (which pages of them, in page order), then
//! `step` (a bounded number of bytes copied and published, by whoever holds the publisher); `state`
//! is what the publisher remembers between steps.
//!
//! Why it is safe: a step looks every page up in the newest map, copies those that still lie in a
//! victim, and publishes the copy as one more segment of the tail. The publisher does one job at a
//! time, so nothing is published in between; a page that was rewritten or trimmed before is found
//! elsewhere and left alone, and what is rewritten or trimmed later comes later in the tail. The
//! victims stay where they are until a map compaction finds nothing alive in them: by then every
//! hole that they recorded is in the leaves.
//!
//! Must never: take a segment out of the manifest (map compactions do), clean a segment of the tail
//! (its holes still hide older pages), or leave an upload for a later publication to reference.

pub mod plan;

mod pace;
mod reader;
mod round;
mod settings;
mod state;
mod step;

pub(in crate::engine) use pace::{Hurry, Pace};
pub(in crate::engine) use reader::own_reader;
pub use settings::CompactionSettings;
pub(super) use state::Cleaning;
pub use state::SpaceStatus;

#[cfg(test)]
mod space_simulation;
