//! The subcommands.

use clap::{Parser, Subcommand};

use super::check::CheckArgs;
use super::history::SnapshotArgs;
use super::image::ImageArgs;
use super::serve::ServeArgs;
use super::server::{CheckpointArgs, StatusArgs};
use super::token::TokenArgs;
use super::txn::TxnArgs;

/// A log-structured, transactional virtual block device: NBD in, S3-compatible object storage out.
///
/// Without a subcommand it serves; without any flag it serves an embedded store under ./mvps-data
/// and prints how to attach.
#[derive(Debug, Parser)]
#[command(name = "mvps", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve images over NBD (the default).
    Serve(Box<ServeArgs>),
    /// Make a token, the export name that a client attaches with.
    Token(TokenArgs),
    /// Work on images in the object store.
    Image(Box<ImageArgs>),
    /// Name states of images, so that they are kept.
    Snapshot(Box<SnapshotArgs>),
    /// Verify what is stored: every reference of every version, to its end.
    Check(Box<CheckArgs>),
    /// Show what the running server does.
    Status(StatusArgs),
    /// Checkpoint an image of the running server now, and wait until it is published.
    Checkpoint(CheckpointArgs),
    /// Apply a list of writes to an image of a running server, all of them or none.
    Txn(TxnArgs),
}
