//! The command line: every flag, its environment variable and its default.
//!
//! Invariant: the environment variable of `--some-flag` is `MVPS_TE_SOME_FLAG`, for every flag
//! (a test holds this file to it). The signing secret has no flag, because arguments can be seen
//! by every user of the machine: it comes from `MVPS_TE_JWT_SECRET` alone.

mod history;
mod txn;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use mvps_core::env::Address;
use mvps_core::ids::ImageId;

pub use history::{
    CloneArgs, DeleteArgs, ImageAt, ImageOperationArgs, OperationArgs, PinsArgs, ResizeArgs,
    RollbackArgs, SnapshotArgs, SnapshotCommand, SnapshotCreateArgs, SnapshotDeleteArgs,
    VersionsArgs,
};
pub use txn::{ClientTlsArgs, TxnArgs};

use super::check::CheckArgs;
use super::quantity::{ByteSize, Compression, parse_address, parse_span};

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

/// Which object store holds the images.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Object store")]
pub struct ImageStoreArgs {
    /// Where images live [default: as the other flags say; else ./mvps-data/objects].
    #[arg(long, env = "MVPS_TE_IMAGE_STORE", value_name = "KIND")]
    pub image_store: Option<ImageStoreKind>,
    /// Bucket. Credentials come from the AWS default chain; S3_ENDPOINT names another endpoint.
    #[arg(long, env = "MVPS_TE_IMAGE_STORE_S3_BUCKET", value_name = "BUCKET")]
    pub image_store_s3_bucket: Option<String>,
    /// Put before every key, for example prod/.
    #[arg(long, env = "MVPS_TE_IMAGE_STORE_S3_PREFIX", value_name = "PREFIX")]
    pub image_store_s3_prefix: Option<String>,
    /// Folder of a local object store.
    #[arg(long, env = "MVPS_TE_IMAGE_STORE_LOCAL_PATH", value_name = "DIR")]
    pub image_store_local_path: Option<PathBuf>,
    /// Accept an object store that ignores If-None-Match. Two servers of one image can then
    /// destroy it; only for a store that nobody else ever writes to.
    #[arg(long, env = "MVPS_TE_UNSAFE_NO_FENCING", value_parser = BoolishValueParser::new())]
    pub unsafe_no_fencing: bool,
}

/// Kinds of object stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ImageStoreKind {
    /// S3 or something that speaks its protocol.
    S3,
    /// A folder.
    Local,
}

/// Where acknowledged writes wait for their checkpoint.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Buffer store")]
pub struct BufferStoreArgs {
    /// Folder of the buffer stores and of the control socket. Belongs to one server; survives
    /// restarts.
    #[arg(
        long,
        env = "MVPS_TE_BUFFER_STORE_PATH",
        value_name = "DIR",
        default_value = "./mvps-data/buffer"
    )]
    pub buffer_store_path: PathBuf,
}

/// How to log. Logs go to stderr.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// For people or for machines.
    #[arg(
        long,
        env = "MVPS_TE_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "human"
    )]
    pub log_format: LogFormat,
    /// A level (error, warn, info, debug, trace) or a filter such as info,mvps_core=debug.
    #[arg(
        long,
        env = "MVPS_TE_LOG_LEVEL",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log_level: String,
}

/// Shapes of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One readable line per event.
    Human,
    /// One JSON object per event.
    Json,
}

/// When a flush counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DurabilityArg {
    /// When the buffer store is synced.
    Local,
    /// When a checkpoint that holds it is published.
    ObjectStore,
}

/// What connections are encrypted with. SIGHUP reads the files again.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "TLS")]
pub struct TlsArgs {
    /// The server's certificate and those between it and a root, as a PEM file. Clients may then
    /// use nbds:// URIs.
    #[arg(
        long,
        env = "MVPS_TE_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, as a PEM file.
    #[arg(
        long,
        env = "MVPS_TE_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,
    /// Clients must show a certificate that one of these signed, as a PEM file.
    #[arg(
        long,
        env = "MVPS_TE_TLS_CLIENT_CA",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_client_ca: Option<PathBuf>,
    /// Refuse whatever is asked in the clear, tokens included, on every address.
    #[arg(long, env = "MVPS_TE_TLS_REQUIRED", value_parser = BoolishValueParser::new())]
    pub tls_required: bool,
}

/// Encryption of what is stored. The root keys have no flag: MVPS_TE_ROOT_KEY lists them (each 32
/// bytes in base64, separated by commas; the first wraps, all unwrap). With a root key, images that
/// are created or cloned are encrypted.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Encryption")]
pub struct EncryptionArgs {
    /// Refuse to open images that are not encrypted (those that are have a key of their own, and
    /// MVPS_TE_ROOT_KEY opens it).
    #[arg(long, env = "MVPS_TE_REQUIRE_ENCRYPTION", value_parser = BoolishValueParser::new())]
    pub require_encryption: bool,
}

/// `mvps serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where to listen: host:port or unix:/path. May be given more than once.
    #[arg(
        long,
        env = "MVPS_TE_LISTEN",
        value_name = "ADDRESS",
        value_delimiter = ',',
        value_parser = parse_address,
        default_value = "127.0.0.1:10809"
    )]
    pub listen: Vec<Address>,
    /// Verify tokens with this PEM public key (RS256, ES256 or EdDSA) instead of the secret.
    #[arg(long, env = "MVPS_TE_JWT_PUBLIC_KEY", value_name = "FILE")]
    pub jwt_public_key: Option<PathBuf>,
    /// TLS.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Encryption of what is stored.
    #[command(flatten)]
    pub encryption: EncryptionArgs,
    /// Object store.
    #[command(flatten)]
    pub images: ImageStoreArgs,
    /// Buffer store.
    #[command(flatten)]
    pub buffer: BufferStoreArgs,
    /// Limits.
    #[command(flatten)]
    pub tuning: TuningArgs,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// A drained buffer store keeps a journal of up to 64 MB, beside one that is being filled and the
/// largest batch: with less room than that, writes could wait for ever.
const BUFFER_LIMIT_MIN: ByteSize = ByteSize(256 << 20);

fn buffer_limit(text: &str) -> Result<ByteSize, String> {
    let limit: ByteSize = text.parse()?;
    if limit < BUFFER_LIMIT_MIN {
        return Err("the buffer store's journals alone take more; at least 256MiB".to_owned());
    }
    Ok(limit)
}

/// What an operator may want to change about the engine.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits and policy")]
pub struct TuningArgs {
    /// Longest time from a write to its checkpoint, in milliseconds.
    #[arg(
        long,
        env = "MVPS_TE_CHECKPOINT_INTERVAL_MS",
        value_name = "MS",
        default_value_t = 60_000,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub checkpoint_interval_ms: u64,
    /// Checkpoint when this much is buffered.
    #[arg(
        long,
        env = "MVPS_TE_CHECKPOINT_BYTES",
        value_name = "SIZE",
        default_value = "256MiB"
    )]
    pub checkpoint_bytes: ByteSize,
    /// Room of the buffer store of one image, journals included; near it writes slow down, at it
    /// they wait.
    #[arg(
        long,
        env = "MVPS_TE_BUFFER_LIMIT_BYTES",
        value_name = "SIZE",
        default_value = "8GiB",
        value_parser = buffer_limit
    )]
    pub buffer_limit_bytes: ByteSize,
    /// Memory for cached object-store data.
    #[arg(
        long,
        env = "MVPS_TE_CACHE_BYTES",
        value_name = "SIZE",
        default_value = "256MiB"
    )]
    pub cache_bytes: ByteSize,
    /// Copy live pages out of segments that are mostly dead, so that the collector can free those.
    #[arg(
        long,
        env = "MVPS_TE_CLEANING",
        value_name = "BOOL",
        default_value = "true",
        action = clap::ArgAction::Set,
        value_parser = BoolishValueParser::new()
    )]
    pub cleaning: bool,
    /// How pages are compressed in the object store: off, zstd or zstd:LEVEL. What does not get
    /// smaller is stored as it is.
    #[arg(
        long,
        env = "MVPS_TE_COMPRESSION",
        value_name = "METHOD",
        default_value = "zstd"
    )]
    pub compression: Compression,
    /// What a flush waits for, unless the token says otherwise.
    #[arg(
        long,
        env = "MVPS_TE_DURABILITY",
        value_name = "KIND",
        default_value = "local"
    )]
    pub durability: DurabilityArg,
    /// Checkpoint, mark clean and close an image that had no connection for this long.
    #[arg(
        long,
        env = "MVPS_TE_IDLE_CLOSE_MS",
        value_name = "MS",
        default_value_t = 60_000
    )]
    pub idle_close_ms: u64,
    /// On shutdown, give up when requests to the object store fail for this long, none answered.
    #[arg(
        long,
        env = "MVPS_TE_SHUTDOWN_PATIENCE_MS",
        value_name = "MS",
        default_value_t = 20_000
    )]
    pub shutdown_patience_ms: u64,
}

/// `mvps token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The image.
    #[arg(long, env = "MVPS_TE_IMAGE", value_name = "IMAGE", value_parser = ImageId::parse)]
    pub image: ImageId,
    /// Size of the image: creates it if there is none, grows it if it is smaller.
    #[arg(long, env = "MVPS_TE_SIZE", value_name = "SIZE")]
    pub size: Option<ByteSize>,
    /// Page size: 4KiB, 8KiB, 16KiB, 32KiB or 64KiB [default: 4KiB if it creates the image, else
    /// whatever the image has].
    #[arg(long, env = "MVPS_TE_PAGE_SIZE", value_name = "SIZE")]
    pub page_size: Option<ByteSize>,
    /// A new connection with the same client id ends the previous one.
    #[arg(long, env = "MVPS_TE_CLIENT_ID", value_name = "ID")]
    pub client_id: Option<String>,
    /// Only for a client whose TLS certificate has this DNS name (see --tls-client-ca).
    #[arg(long, env = "MVPS_TE_TLS_CLIENT", value_name = "NAME")]
    pub tls_client: Option<String>,
    /// Refuse writes.
    #[arg(long, env = "MVPS_TE_READ_ONLY", value_parser = BoolishValueParser::new())]
    pub read_only: bool,
    /// Attach to this snapshot (read only).
    #[arg(
        long,
        env = "MVPS_TE_SNAPSHOT",
        value_name = "NAME",
        conflicts_with = "version"
    )]
    pub snapshot: Option<String>,
    /// Attach to this version (read only).
    #[arg(long, env = "MVPS_TE_VERSION", value_name = "NUMBER")]
    pub version: Option<u64>,
    /// What a flush of this client waits for [default: as the server says].
    #[arg(long, env = "MVPS_TE_DURABILITY", value_name = "KIND")]
    pub durability: Option<DurabilityArg>,
    /// How long the token is good for new connections.
    #[arg(
        long,
        env = "MVPS_TE_EXPIRES",
        value_name = "SPAN",
        default_value = "30d",
        value_parser = parse_span
    )]
    pub expires: Duration,
}

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
    /// Show an image: its newest version, who is in office, snapshots and pins.
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

/// Shape of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Human,
    /// One JSON document.
    Json,
}

/// How to print the result.
#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// For people or for machines.
    #[arg(
        long,
        env = "MVPS_TE_OUTPUT",
        value_name = "FORMAT",
        default_value = "human"
    )]
    pub output: OutputFormat,
}

/// `mvps image list`.
#[derive(Debug, Args)]
pub struct ImageListArgs {
    /// Object store.
    #[command(flatten)]
    pub images: ImageStoreArgs,
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
    pub images: ImageStoreArgs,
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
