//! Flags of `mvps image …`, but for those in [`history`](super::history).

use clap::{Args, Subcommand};
use mvps_core::ids::ImageId;

use super::history::{
    CloneArgs, DeleteArgs, ImageOperationArgs, PinsArgs, ResizeArgs, RollbackArgs, VersionsArgs,
};
use super::object_store::ObjectStoreArgs;
use super::shared::{BufferStoreArgs, LogArgs, OutputArgs};

/// `mvps image`.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ImageCommand,
}

/// `mvps image …`.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List all images.
    List(ImageListArgs),
    /// Show an image: its newest version, its active writer, snapshots and pins.
    Show(ImageNameArgs),
    /// Make a writable image that shares everything with another, at once, whatever its size.
    Clone(CloneArgs),
    /// Make the image what it was in a snapshot or version, in a new version.
    Rollback(RollbackArgs),
    /// Grow the image.
    Resize(ResizeArgs),
    /// Wrap the image's data keys with the first key of MVPS_TE_ROOT_KEY. No data is rewritten.
    Rekey(ImageOperationArgs),
    /// Delete the image. What clones of it need is kept.
    Delete(DeleteArgs),
    /// List the versions that are kept: what can be rolled back to, cloned or attached to.
    Versions(VersionsArgs),
    /// List who pins versions or objects of the image, or free the pin of a dead reader.
    Pins(PinsArgs),
    /// Take the image away from a server or buffer store that is gone. What it had not yet
    /// published is given up: the image goes back to its last checkpoint.
    Takeover(ImageNameArgs),
    /// Let a fenced buffer store back in, if nothing was published in between.
    Adopt(ImageAdoptArgs),
}

impl ImageCommand {
    /// How to log while it is carried out.
    #[must_use]
    pub fn log(&self) -> &LogArgs {
        match self {
            Self::List(args) => &args.log,
            Self::Clone(args) => &args.operation.log,
            Self::Rollback(args) => &args.operation.log,
            Self::Resize(args) => &args.operation.log,
            Self::Rekey(args) => &args.operation.log,
            Self::Delete(args) => &args.operation.log,
            Self::Versions(args) => &args.operation.log,
            Self::Pins(args) => &args.operation.log,
            Self::Show(args) | Self::Takeover(args) => &args.log,
            Self::Adopt(args) => &args.name.log,
        }
    }
}

/// `mvps image list`.
#[derive(Debug, Args)]
pub struct ImageListArgs {
    /// Object store.
    #[command(flatten)]
    pub object_store: ObjectStoreArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `mvps image show` and `mvps image takeover`.
#[derive(Debug, Args)]
pub struct ImageNameArgs {
    /// The image.
    #[arg(value_parser = ImageId::parse)]
    pub image: ImageId,
    /// Object store.
    #[command(flatten)]
    pub object_store: ObjectStoreArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `mvps image adopt`.
#[derive(Debug, Args)]
pub struct ImageAdoptArgs {
    /// What and where.
    #[command(flatten)]
    pub name: ImageNameArgs,
    /// The buffer store that is let back in.
    #[command(flatten)]
    pub buffer: BufferStoreArgs,
}
