//! What is expected of an image under load: which states and reads its history allows.
//!
//! Reading order: [`history`] (what was done), [`explain`] (which states it allows), [`content`]
//! (stamps as bytes), [`target`] (the image), [`load`] (what writes to it), [`verdict`] (the
//! judgement of a round).
//!
//! Invariant: the model imports the rig, never a driver; how a round goes is a driver's matter.

pub mod content;
mod explain;
pub mod history;
pub mod load;
pub mod target;
pub mod verdict;
