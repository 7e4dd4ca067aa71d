//! mvps: the engine of `mvps-core` on tokio, a local buffer and S3-compatible object storage.
//!
//! Reading order: [`cli`] (what can be asked for), [`runtime`] (the environment traits on tokio),
//! [`control`] (how an operator speaks to a running server).
#![warn(missing_docs)]

pub mod cli;
pub mod control;
pub mod logging;
pub mod runtime;
