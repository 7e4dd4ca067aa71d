//! The collector: deletes what no version, snapshot, clone or server can reach any more.
//!
//! Read in this order:
//! 1. [`policy`], [`expiry`] and [`pins`]: what an operator wants, which versions may be forgotten,
//!    which pins have outlived their clones. Pure.
//! 2. [`survey`]: reads what an image retains. `amend`: publishes what is decided.
//! 3. `sweep`: lists keys and deletes garbage. [`pass`]: all of it, over all images.
//!
//! **Why it is safe.** Nothing here waits, locks or looks at a clock for safety. What may be
//! deleted is decided by [`crate::reachability`] from one manifest that was the newest when read,
//! and from every version that it retains. Garbage by that decision is garbage for ever: a
//! publication references only what its base protects or what its own epoch made above the
//! watermark, so nobody can come back to it. Hence the order of reading does not matter beyond
//! this: the newest manifest is read *before* the versions that it retains, and a retained version
//! that is missing means that the newest is no longer that, and the image is read again. Keys may
//! be listed at any time: what is uploaded meanwhile is not settled by the manifest that was read.
//! A pause of any length, between any two requests, changes nothing; so two collectors may run at
//! once, and one may be killed anywhere. What was half done is done by the next pass.
//!
//! Versions are forgotten by publication first, which is ordered against snapshots, clones and
//! rollbacks, and only what the *published* manifest forgets is deleted. A pin is released only
//! when its clone can never need it again (docs/protocol.md §5.2).
//!
//! Architecture invariants:
//! - Only `sweep` deletes, and only keys that [`crate::reachability`] calls garbage.
//! - A manifest that cannot be read stops its image, not the others. It may name pins' clones, but
//!   pins are in the manifests of the images that they protect, so those are safe without it; and
//!   a pin whose target cannot be read stays.
//! - Memory is bounded by the objects that one image needs (about 60 bytes each), never by how many
//!   there are.

mod abandon;
mod amend;
mod context;
pub mod expiry;
pub mod pass;
pub mod pins;
pub mod policy;
mod report;
pub mod survey;
mod sweep;

#[cfg(test)]
mod tests;

pub use pass::Collector;
pub use policy::{Budget, CollectionPolicy};
pub use report::{CollectionReport, ImageCollection, Observer, Progress, Silent};
