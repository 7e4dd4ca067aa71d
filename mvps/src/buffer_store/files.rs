//! The files of a buffer store beside fjall's own.
//!
//! ```text
//! <root>/<image>/lock           held by the store and its handles
//! <root>/<image>/store          there once the store was made whole
//! <root>/<image>/sync-failed    there after a failed sync: the next opening rewrites the data
//! <root>/<image>/fjall/         the database, with fjall's files and
//! <root>/<image>/fjall/synced   the highest ordinal known to be synced
//! <root>/<image>/fjall/*.cut    bytes cut off a journal
//! <root>/<image>/rewritten/     a database that is to replace `fjall/`
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use mvps_core::env::BufferError;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::recovery::Cut;

/// The content of the file `store`.
pub const STORE_FORMAT: &[u8] = b"mvps buffer store, format 1\n";

/// A store of this process that was just closed needs a moment to let go of its lock.
const LOCK_ATTEMPTS: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

const SYNCED_SEED: u64 = 0x6d76_7073_2073_796e;

/// Where the files of one image's buffer store are.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The directory of the image.
    pub image: PathBuf,
}

impl Layout {
    /// The database's directory.
    pub fn database(&self) -> PathBuf {
        self.image.join("fjall")
    }

    /// A database that is being written to replace the other.
    pub fn rewritten(&self) -> PathBuf {
        self.image.join("rewritten")
    }

    /// Says that the store was made whole.
    pub fn store(&self) -> PathBuf {
        self.image.join("store")
    }

    /// Says that a sync failed.
    pub fn sync_failed(&self) -> PathBuf {
        self.image.join("sync-failed")
    }
}

/// Holds a buffer store's directory for this process, until dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock, waiting a moment for a holder that is about to let go.
    pub fn take(layout: &Layout) -> Result<Self, BufferError> {
        let path = layout.image.join("lock");
        let failed = |error: io::Error| BufferError::Io {
            reason: format!("{}: {error}", path.display()),
        };
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let file = options.open(&path).map_err(failed)?;
        for attempt in 1.. {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempt < LOCK_ATTEMPTS => {
                    thread::sleep(LOCK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(BufferError::Locked {
                        path: layout.image.display().to_string(),
                    });
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        Ok(Self { _file: file })
    }
}

/// Syncs a directory's entries.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes a small file and syncs it and its entry.
pub fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()?;
    sync_directory(path.parent().unwrap_or(path))
}

/// The journals of a database, oldest first, with their numbers.
pub fn journals(database: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(database)? {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse().ok());
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Cuts a journal at `offset`, keeping `tail` in a file of its own.
pub fn cut(journal: &Path, offset: u64, tail: &[u8]) -> io::Result<Cut> {
    let kept = journal.with_extension(format!("jnl-{offset}.cut"));
    write_durably(&kept, tail)?;
    let file = OpenOptions::new().write(true).open(journal)?;
    file.set_len(offset)?;
    file.sync_all()?;
    Ok(Cut {
        journal: journal.to_owned(),
        offset,
        kept,
        bytes: tail.len() as u64,
    })
}

/// The file `synced`: written after each sync, itself not synced. What it says is true whenever it
/// can be read, if perhaps not the newest.
#[derive(Debug)]
pub struct SyncedFile {
    file: File,
}

impl SyncedFile {
    fn path(database: &Path) -> PathBuf {
        database.join("synced")
    }

    /// Opens or makes it.
    pub fn open(database: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let file = options.open(Self::path(database))?;
        Ok(Self { file })
    }

    /// Notes that everything up to `ordinal` is synced.
    pub fn note(&self, ordinal: u64) -> io::Result<()> {
        let number = ordinal.to_le_bytes();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number);
        let checksum = xxh3_64_with_seed(&number, SYNCED_SEED);
        bytes[8..].copy_from_slice(&checksum.to_le_bytes());
        self.file.write_all_at(&bytes, 0)
    }

    /// What it says; 0 if it says nothing or is damaged.
    pub fn read(database: &Path) -> io::Result<u64> {
        let bytes = match fs::read(Self::path(database)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let Some((number, checksum)) = bytes.split_first_chunk::<8>() else {
            return Ok(0);
        };
        let expected = xxh3_64_with_seed(number, SYNCED_SEED).to_le_bytes();
        if checksum != expected {
            return Ok(0);
        }
        Ok(u64::from_le_bytes(*number))
    }
}
