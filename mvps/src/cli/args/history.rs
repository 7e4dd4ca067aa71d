//! Flags of `mvps snapshot …` and of `mvps image clone|rollback|resize|delete|versions|pins`.

use std::str::FromStr;

use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};
use mvps_core::ids::ImageId;

use super::object_store::ObjectStoreArgs;
use super::shared::{BufferStoreArgs, LogArgs, OutputArgs};
use crate::quantity::ByteSize;

/// `IMAGE`, or a snapshot of it: `IMAGE@NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageAt {
    /// The image.
    pub image: ImageId,
    /// The snapshot.
    pub snapshot: Option<String>,
}

impl FromStr for ImageAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (image, snapshot) = match text.split_once('@') {
            Some((image, snapshot)) => (image, Some(snapshot)),
            None => (text, None),
        };
        let image = ImageId::parse(image).map_err(|error| error.to_string())?;
        // Snapshots are named with the characters of an image.
        if let Some(Err(error)) = snapshot.map(ImageId::parse) {
            return Err(format!("the part after @ is {error}"));
        }
        let snapshot = snapshot.map(str::to_owned);
        Ok(Self { image, snapshot })
    }
}

/// With what an operation works.
#[derive(Debug, Args)]
pub struct OperationArgs {
    /// Object store.
    #[command(flatten)]
    pub object_store: ObjectStoreArgs,
    /// Whose server to ask, if it runs and has the image open.
    #[command(flatten)]
    pub buffer: BufferStoreArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `mvps snapshot`.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: SnapshotCommand,
}

/// `mvps snapshot …`.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Name the image's present state, so that it is kept. A running server that has the image
    /// open checkpoints it first.
    Create(SnapshotCreateArgs),
    /// List the snapshots of an image.
    List(ImageOperationArgs),
    /// Delete a snapshot's name; what only it kept may be collected.
    Delete(SnapshotDeleteArgs),
}

impl SnapshotCommand {
    /// How to log while it is carried out.
    #[must_use]
    pub fn log(&self) -> &LogArgs {
        match self {
            Self::Create(args) => &args.operation.log,
            Self::List(args) => &args.operation.log,
            Self::Delete(args) => &args.operation.log,
        }
    }
}

/// An image and nothing else.
#[derive(Debug, Args)]
pub struct ImageOperationArgs {
    /// The image.
    #[arg(value_parser = ImageId::parse)]
    pub image: ImageId,
    /// With what.
    #[command(flatten)]
    pub operation: OperationArgs,
}

/// `mvps snapshot create`.
#[derive(Debug, Args)]
pub struct SnapshotCreateArgs {
    /// The image and the snapshot's name.
    #[arg(value_name = "IMAGE@NAME")]
    pub target: ImageAt,
    /// Name this version instead of the present state.
    #[arg(long, env = "MVPS_TE_VERSION", value_name = "NUMBER")]
    pub version: Option<u64>,
    /// With what.
    #[command(flatten)]
    pub operation: OperationArgs,
}

/// `mvps snapshot delete`.
#[derive(Debug, Args)]
pub struct SnapshotDeleteArgs {
    /// The image and the snapshot's name.
    #[arg(value_name = "IMAGE@NAME")]
    pub target: ImageAt,
    /// Also while readers or clones pin its version; what they need stays.
    #[arg(long, env = "MVPS_TE_FORCE", value_parser = BoolishValueParser::new())]
    pub force: bool,
    /// With what.
    #[command(flatten)]
    pub operation: OperationArgs,
}

/// `mvps image clone`.
#[derive(Debug, Args)]
pub struct CloneArgs {
    /// What to clone: the image's present state, or a snapshot.
    #[arg(value_name = "IMAGE[@NAME]")]
    pub source: ImageAt,
    /// The clone's name.
    #[arg(value_name = "CLONE", value_parser = ImageId::parse)]
    pub target: ImageId,
    /// Clone this version.
    #[arg(long, env = "MVPS_TE_VERSION", value_name = "NUMBER")]
    pub version: Option<u64>,
    /// With what.
    #[command(flatten)]
    pub operation: OperationArgs,
}

/// `mvps image rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The image, and the snapshot to go back to.
    #[arg(value_name = "IMAGE[@NAME]")]
    pub target: ImageAt,
    /// Go back to this version.
    #[arg(long, env = "MVPS_TE_VERSION", value_name = "NUMBER")]
    pub version: Option<u64>,
    /// Of an open image: give up at once what is not published, instead of publishing it first so
    /// that the rollback can be undone.
    #[arg(
        long,
        env = "MVPS_TE_DISCARD_UNPUBLISHED",
        value_parser = BoolishValueParser::new()
    )]
    pub discard_unpublished: bool,
    /// With what.
    #[command(flatten)]
    pub operation: OperationArgs,
}

/// `mvps image resize`.
#[derive(Debug, Args)]
pub struct ResizeArgs {
    /// The image.
    #[arg(value_parser = ImageId::parse)]
    pub image: ImageId,
    /// Its new size, for example 20GiB. Images only grow.
    #[arg(value_name = "SIZE")]
    pub size: ByteSize,
    /// With what.
    #[command(flatten)]
    pub operation: OperationArgs,
}

/// `mvps image delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The image.
    #[arg(value_parser = ImageId::parse)]
    pub image: ImageId,
    /// Also while a server has it: that is fenced, and what it did not publish is given up.
    #[arg(long, env = "MVPS_TE_FORCE", value_parser = BoolishValueParser::new())]
    pub force: bool,
    /// With what.
    #[command(flatten)]
    pub operation: OperationArgs,
}

/// `mvps image versions`.
#[derive(Debug, Args)]
pub struct VersionsArgs {
    /// The image.
    #[arg(value_parser = ImageId::parse)]
    pub image: ImageId,
    /// How many of the newest to show, beside those with a name or pin.
    #[arg(
        long,
        env = "MVPS_TE_LIMIT",
        value_name = "NUMBER",
        default_value_t = 50
    )]
    pub limit: usize,
    /// With what.
    #[command(flatten)]
    pub operation: OperationArgs,
}

/// `mvps image pins`.
#[derive(Debug, Args)]
pub struct PinsArgs {
    /// The image.
    #[arg(value_parser = ImageId::parse)]
    pub image: ImageId,
    /// Free the pins of this reader, which must be dead: a pin as it is listed, a life
    /// (`HOST-ID.LINE.LIFE`), or all lives of `HOST-ID` but that of the server that runs in
    /// `--buffer-store-path`.
    #[arg(long, env = "MVPS_TE_RELEASE", value_name = "ID")]
    pub release: Option<String>,
    /// With what.
    #[command(flatten)]
    pub operation: OperationArgs,
}
