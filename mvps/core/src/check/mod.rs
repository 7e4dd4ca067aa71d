//! `mvps check`: walks every reference of every retained version to its end.
//!
//! Read [`report`] (what can be found), `walk` (manifests, maps, the listing), `objects` (segments
//! and map objects).
//!
//! Invariants:
//! - Nothing is believed that does not verify; nothing is concluded from what could not be read.
//! - Each object is verified once, however many versions reference it; memory grows with the
//!   objects and leaves that one image needs, not with what they hold.
//! - What a server or a collector changes meanwhile is no finding: an image on which something is
//!   found and whose newest version has changed by then is walked again.
//!
//! Must never: write, publish or delete.

mod objects;
pub mod report;
mod walk;

#[cfg(test)]
mod tests;

pub use report::{CheckProgress, CheckReport, Finding, FindingKind, ImageCheck, Leaks};
pub use walk::{CheckObserver, Checker};
