//! The engine of mvps, the multi-versioned page store.
//!
//! Reading order: [`ids`] and [`env`] (the vocabulary and the world), [`format`] (what is stored),
//! [`nbd`] (what is spoken), [`engine`] (how a write becomes durable), [`session`] (who asks).

pub mod admin;
pub mod check;
pub mod client;
pub mod collector;
pub mod content;
pub mod content_log;
pub mod encryption;
pub mod engine;
pub mod env;
pub mod format;
pub mod frame_cache;
pub mod ids;
pub mod mutant;
pub mod nbd;
pub mod object_reads;
pub mod protocol;
pub mod reachability;
#[cfg(test)]
mod scenarios;
pub mod session;
pub mod store;
pub mod token;
mod transport;
