//! The engine of mvps, the multi-versioned page store.
//!
//! Reading order: [`ids`] and [`env`] (the vocabulary and the world), [`format`] (what is stored),
//! [`nbd`] (what is spoken).

pub mod env;
pub mod format;
pub mod ids;
