//! Bytes and values: every record that leaves the process, one file per kind. Pure: no
//! environment, no async, no allocation from an unchecked length, no panic on any input.
//!
//! Reading order: [`codec`] (the envelope that every record shares), [`object_name`] (where things
//! are), [`frame`] (pages), [`segment`] (frames and their index), [`map_object`] (page to
//! location), [`manifest`] (one version of an image), [`buffer_metadata`] (what a buffer store
//! knows of itself). The byte layouts are drawn in `mvps/docs/format.md`.

pub mod buffer_metadata;
pub mod codec;
pub mod frame;
pub mod location;
pub mod manifest;
pub mod map_object;
pub mod object_name;
pub mod segment;

#[cfg(test)]
mod damage;
