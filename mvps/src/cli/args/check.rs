//! Flags of `mvps check`.

use clap::Args;
use clap::builder::BoolishValueParser;
use mvps_core::ids::ImageId;

use super::object_store::ObjectStoreArgs;
use super::shared::{LogArgs, OutputArgs};

/// `mvps check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The image.
    #[arg(value_parser = ImageId::parse, required_unless_present = "all", conflicts_with = "all")]
    pub image: Option<ImageId>,
    /// Check every image.
    #[arg(long, env = "MVPS_TE_ALL", value_parser = BoolishValueParser::new())]
    pub all: bool,
    /// Read page content too, and verify it. Reads everything that is stored.
    #[arg(long, env = "MVPS_TE_READ_DATA", value_parser = BoolishValueParser::new())]
    pub read_data: bool,
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
