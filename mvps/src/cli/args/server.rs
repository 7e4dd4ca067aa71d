//! Flags of what is asked of a running server: `mvps status` and `mvps checkpoint`.

use clap::Args;
use mvps_core::ids::ImageId;

use super::shared::{BufferStoreArgs, OutputArgs};

/// `mvps status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Whose control socket to ask.
    #[command(flatten)]
    pub buffer: BufferStoreArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `mvps checkpoint`.
#[derive(Debug, Args)]
pub struct CheckpointArgs {
    /// The image.
    #[arg(value_parser = ImageId::parse)]
    pub image: ImageId,
    /// Whose control socket to ask.
    #[command(flatten)]
    pub buffer: BufferStoreArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
}
