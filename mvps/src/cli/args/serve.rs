//! Flags of `mvps serve`, and what they ask of the server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use mvps_core::engine::MemoryShares;
use mvps_core::env::Address;

use super::object_store::{ContradictoryFlags, ObjectStoreArgs};
use super::shared::{BufferStoreArgs, DurabilityArg, LogArgs};
use crate::daemon::{
    DISK_CACHE_MIN_BYTES, DiskCacheSettings, EngineSettings, ServerSettings, TlsSettings,
};
use crate::quantity::{ByteSize, Compression, parse_address};
use crate::runtime::TlsFiles;

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
    pub object_store: ObjectStoreArgs,
    /// Buffer store.
    #[command(flatten)]
    pub buffer: BufferStoreArgs,
    /// Disk cache.
    #[command(flatten)]
    pub disk_cache: DiskCacheArgs,
    /// Limits.
    #[command(flatten)]
    pub tuning: TuningArgs,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

impl ServeArgs {
    /// What the flags ask of the server.
    ///
    /// # Errors
    /// If they contradict each other or one is missing.
    pub fn settings(&self) -> Result<ServerSettings, ContradictoryFlags> {
        Ok(ServerSettings {
            listen: self.listen.clone(),
            jwt_public_key: self.jwt_public_key.clone(),
            image_store: self.object_store.choice()?,
            accepts_unfenced: self.object_store.unsafe_no_fencing,
            tls: self.tls.settings()?,
            requires_encryption: self.encryption.require_encryption,
            buffer_store_path: self.buffer.buffer_store_path.clone(),
            disk_cache: self.disk_cache.settings(&self.buffer.buffer_store_path),
            engine: self.tuning.engine_settings()?,
            durability: self.tuning.durability.into(),
            idle_close: Duration::from_millis(self.tuning.idle_close_ms),
            shutdown_patience: Duration::from_millis(self.tuning.shutdown_patience_ms),
        })
    }
}

/// Where object-store data is cached beside memory. It survives restarts; whatever is lost or damaged
/// of it is fetched again.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Disk cache")]
pub struct DiskCacheArgs {
    /// Folder of the disk cache, of one server [default: the folder cache in the buffer store path].
    #[arg(long, env = "MVPS_TE_CACHE_PATH", value_name = "DIR")]
    pub cache_path: Option<PathBuf>,
    /// Disk space for cached object-store data; 0 turns it off [default: 10GiB or a tenth of the
    /// file system, whichever is smaller; off with a local object store].
    #[arg(
        long,
        env = "MVPS_TE_DISK_CACHE_BYTES",
        value_name = "SIZE",
        value_parser = disk_cache_limit
    )]
    pub disk_cache_bytes: Option<ByteSize>,
}

/// Beside the lock and the control socket; folders of images are one level deeper.
const CACHE_FOLDER: &str = "cache";

fn disk_cache_limit(text: &str) -> Result<ByteSize, String> {
    let limit: ByteSize = text.parse()?;
    if (1..DISK_CACHE_MIN_BYTES).contains(&limit.0) {
        let least = ByteSize(DISK_CACHE_MIN_BYTES);
        return Err(format!(
            "room is made in large steps; 0, or at least {least}"
        ));
    }
    Ok(limit)
}

impl DiskCacheArgs {
    fn settings(&self, buffer_store_path: &Path) -> DiskCacheSettings {
        let in_buffer = || buffer_store_path.join(CACHE_FOLDER);
        DiskCacheSettings {
            path: self.cache_path.clone().unwrap_or_else(in_buffer),
            limit_bytes: self.disk_cache_bytes.map(|bytes| bytes.0),
        }
    }
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

impl TlsArgs {
    /// What the flags ask for; `None` if they ask for nothing.
    fn settings(&self) -> Result<Option<TlsSettings>, ContradictoryFlags> {
        let (Some(cert), Some(key)) = (self.tls_cert.clone(), self.tls_key.clone()) else {
            if self.tls_required {
                return Err(ContradictoryFlags(
                    "--tls-required needs a certificate: add --tls-cert FILE --tls-key FILE",
                ));
            }
            return Ok(None);
        };
        let client_ca = self.tls_client_ca.clone();
        Ok(Some(TlsSettings {
            files: TlsFiles {
                cert,
                key,
                client_ca,
            },
            required: self.tls_required,
        }))
    }
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

/// A drained buffer store keeps a journal of up to 64 MB, beside one that is being filled and the
/// largest batch: with less space than that, writes could wait for ever.
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
    /// Disk space for the buffer store of one image, journals included; near it writes slow down,
    /// at it they wait.
    #[arg(
        long,
        env = "MVPS_TE_BUFFER_LIMIT_BYTES",
        value_name = "SIZE",
        default_value = "8GiB",
        value_parser = buffer_limit
    )]
    pub buffer_limit_bytes: ByteSize,
    /// Disk space for all buffer stores together; half of the file system if nothing is said.
    #[arg(
        long,
        env = "MVPS_TE_BUFFER_TOTAL_BYTES",
        value_name = "SIZE",
        value_parser = buffer_limit
    )]
    pub buffer_total_bytes: Option<ByteSize>,
    /// Near this much free space on the buffer stores' disk writes slow down, at it they wait. If
    /// nothing is said, 2 % of the file system (with a local object store an eighth), at most 1 GiB.
    #[arg(long, env = "MVPS_TE_DISK_FLOOR_BYTES", value_name = "SIZE")]
    pub disk_floor_bytes: Option<ByteSize>,
    /// What the process may take of the memory, at least 256 MiB. Caches, indexes of what is buffered,
    /// uploads, transactions and payload each have a share; where one ends, somebody waits
    /// [default: 1GiB].
    #[arg(
        long,
        env = "MVPS_TE_MEMORY_LIMIT",
        value_name = "SIZE",
        value_parser = memory_limit
    )]
    pub memory_limit: Option<ByteSize>,
    /// Memory for cached object-store data [default: 3/16 of the memory limit].
    #[arg(long, env = "MVPS_TE_CACHE_BYTES", value_name = "SIZE")]
    pub cache_bytes: Option<ByteSize>,
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

impl TuningArgs {
    fn engine_settings(&self) -> Result<EngineSettings, ContradictoryFlags> {
        Ok(EngineSettings {
            checkpoint_interval: Duration::from_millis(self.checkpoint_interval_ms),
            checkpoint_bytes: self.checkpoint_bytes.0,
            buffer_limit_bytes: self.buffer_limit_bytes.0,
            buffer_total_bytes: self.buffer_total_bytes.map(|size| size.0),
            disk_floor_bytes: self.disk_floor_bytes.map(|size| size.0),
            memory: self.memory()?,
            compression: self.compression.0,
            cleaning: self.cleaning,
        })
    }

    fn memory(&self) -> Result<MemoryShares, ContradictoryFlags> {
        let cache_bytes = self.cache_bytes.map(|size| size.0);
        let limit_bytes = self.memory_limit.map(|size| size.0);
        match (limit_bytes, cache_bytes) {
            (None, None) => Ok(MemoryShares::default()),
            (Some(limit), None) => Ok(MemoryShares::of(limit)),
            // The others take what they take by default.
            (None, Some(cache)) => Ok(MemoryShares {
                cache_bytes: cache,
                ..MemoryShares::default()
            }),
            (Some(limit), Some(cache)) => {
                MemoryShares::with_cache(limit, cache).ok_or(ContradictoryFlags(
                    "--cache-bytes leaves the others too little of --memory-limit, 208 MiB at \
                     least: raise the limit, or leave --cache-bytes out",
                ))
            }
        }
    }
}

fn memory_limit(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    if size.0 < MemoryShares::LIMIT_MIN_BYTES {
        return Err(format!(
            "less than {} MiB would not hold the largest requests",
            MemoryShares::LIMIT_MIN_BYTES >> 20
        ));
    }
    Ok(size)
}
