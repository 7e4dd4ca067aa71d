//! The control socket: how an operator speaks to a running server.
//!
//! One request per line, one reply per line, JSON, over `<buffer-store-path>/control.sock`. Only
//! the user who runs the server may connect (mode 0600). What can be asked is [`Request`].
//!
//! Never: anything that a token or a secret could leak through.

mod client;
mod message;
mod server;

use std::path::{Path, PathBuf};

pub use client::{ControlError, ask};
pub use message::{
    CachesReport, CheckpointDone, DiskCacheReport, Health, HeldUpReport, ImageReport, NodeReport,
    ObjectStoreReport, RekeyDone, Reply, Request, ResizeDone, RollbackDone, RollbackTo,
    SpaceReport,
};
pub use server::{ControlHandler, ControlServer};

/// Longest line in either direction. A report takes about 1 KiB per image.
pub const LINE_MAX_BYTES: usize = 16 << 20;

/// The control socket of the server that owns this folder of buffer stores.
#[must_use]
pub fn socket_path(buffer_store_path: &Path) -> PathBuf {
    buffer_store_path.join("control.sock")
}
