//! mvps: the engine of `mvps-core` on tokio, a local buffer and S3-compatible object storage.
//!
//! Reading order: [`cli`] (what can be asked for), [`runtime`] (the environment traits on tokio),
//! [`files`] (the local disk), [`frame_cache`] (the cache on it), [`object_store`] (S3 and folders), [`daemon`] (the server),
//! [`control`] (how an operator speaks to it).
//!
//! Invariant: only [`cli`] knows flags. It hands plain settings to [`daemon`] and [`logging`], which
//! never import it.
#![warn(missing_docs)]

pub mod cli;
pub mod control;
pub mod daemon;
pub mod files;
pub mod frame_cache;
pub mod logging;
pub mod object_store;
pub mod quantity;
pub mod runtime;
