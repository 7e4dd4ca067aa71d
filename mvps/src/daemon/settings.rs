//! What whoever starts the server decides. Plain data: it knows no flags and reads nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mvps_core::engine::{Durability, MemoryShares};
use mvps_core::env::Address;

use crate::runtime::TlsFiles;

/// Where everything is when no flag says otherwise.
pub const EMBEDDED_PATH: &str = "./mvps-data";

/// The server.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Where it listens; at least one address.
    pub listen: Vec<Address>,
    /// PEM file of the public key that verifies tokens, beside the secret of the environment.
    pub jwt_public_key: Option<PathBuf>,
    /// The object store.
    pub image_store: ImageStoreChoice,
    /// An object store that ignores conditions is accepted.
    pub accepts_unfenced: bool,
    /// What connections are encrypted with; in the clear without.
    pub tls: Option<TlsSettings>,
    /// Images that are not encrypted are refused.
    pub requires_encryption: bool,
    /// Folder of the buffer stores and of the control socket.
    pub buffer_store_path: PathBuf,
    /// The disk cache.
    pub disk_cache: DiskCacheSettings,
    /// The engine.
    pub engine: EngineSettings,
    /// What a flush waits for, unless the token says otherwise.
    pub durability: Durability,
    /// An image without a connection is closed after this long.
    pub idle_close: Duration,
    /// How long a shutdown goes on while requests to the object store fail and none is answered.
    pub shutdown_patience: Duration,
}

/// The cache of object-store data on the local disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskCacheSettings {
    /// Its folder.
    pub path: PathBuf,
    /// Most that it takes; none at 0. Without one the object store and the folder's file system
    /// decide.
    pub limit_bytes: Option<u64>,
}

/// Encryption of connections.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// Certificates and keys.
    pub files: TlsFiles,
    /// Whatever is asked in the clear is refused.
    pub required: bool,
}

/// Limits and policy of the engine.
#[derive(Debug, Clone, Copy)]
pub struct EngineSettings {
    /// Longest time from a write to its checkpoint.
    pub checkpoint_interval: Duration,
    /// This much in the buffer begins a checkpoint.
    pub checkpoint_bytes: u64,
    /// Most that the buffer store of one image takes on the disk.
    pub buffer_limit_bytes: u64,
    /// Most that all buffer stores take on the disk; half of it if nothing is said.
    pub buffer_total_bytes: Option<u64>,
    /// So much stays free on the disk; 2 % of it, at most 1 GiB, if nothing is said.
    pub disk_floor_bytes: Option<u64>,
    /// What the parts of the process take of its memory.
    pub memory: MemoryShares,
    /// zstd's level; off without one.
    pub compression: Option<i32>,
    /// Live pages are copied out of segments that are mostly dead.
    pub cleaning: bool,
}

/// Which object store holds the images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageStoreChoice {
    /// The folder `objects` in [`EMBEDDED_PATH`], because no flag says otherwise.
    Embedded,
    /// A folder.
    Local(PathBuf),
    /// A bucket.
    S3 {
        /// Its name.
        bucket: String,
        /// Put before every key; empty, or ends in `/`.
        prefix: String,
    },
}

impl ImageStoreChoice {
    /// The folder, for a local store.
    #[must_use]
    pub fn local_path(&self) -> Option<PathBuf> {
        match self {
            Self::Embedded => Some(Path::new(EMBEDDED_PATH).join("objects")),
            Self::Local(path) => Some(path.clone()),
            Self::S3 { .. } => None,
        }
    }
}

impl std::fmt::Display for ImageStoreChoice {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self, self.local_path()) {
            (Self::S3 { bucket, prefix }, _) => write!(formatter, "s3://{bucket}/{prefix}"),
            (_, path) => write!(formatter, "{}", path.unwrap_or_default().display()),
        }
    }
}
