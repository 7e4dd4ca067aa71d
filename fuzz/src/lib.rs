//! What mvps does with bytes that nobody promised anything about.
//!
//! Each module is one target: `run` takes the fuzzer's bytes and panics on a finding. A target
//! either decodes bytes and checks that what was accepted is stable ([`manifest`], [`segment`],
//! [`map_object`], [`buffer_metadata`], [`token`]), or plays them against the real code and
//! compares what comes back with a model that is too simple to be wrong ([`negotiation`],
//! [`requests`], [`session`], [`engine`], [`client`]).
//!
//! Invariants: one input gives one run, whatever ran before; there is no thread, no clock and no
//! randomness but those of [`world`]. Must never: tolerate what the code under test does only
//! because it does it.

#![forbid(unsafe_code)]

pub mod buffer_metadata;
pub mod client;
mod disk;
pub mod engine;
pub mod manifest;
pub mod map_object;
pub mod negotiation;
mod records;
pub mod requests;
pub mod segment;
pub mod session;
mod stream;
pub mod token;
mod world;
