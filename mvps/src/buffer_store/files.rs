//! The files of a buffer store beside fjall's own.
//!
//! ```text
//! <root>/<image>/lock               held by the store and its handles
//! <root>/<image>/store              there once the store was made whole
//! <root>/<image>/sync-failed        there after a failed sync: the next opening rewrites the data
//! <root>/<image>/fjall/             the first database, number 0
//! <root>/<image>/fjall-<n>/         the later ones, in the order of their numbers
//! <root>/<image>/rewritten/         what earlier versions called a rewritten database
//!
//! in a database, beside fjall's files:
//!   complete   it counts; not needed in `fjall/`, which `store` vouches for
//!   synced     the highest ordinal known to be synced
//!   *.cut      bytes cut off a journal
//! ```
//!
//! A database without `complete` is being made, or its making was interrupted. The one of the
//! highest number among the others is the active one; it names those of lower numbers that are
//! still needed. Everything else is removed at the next opening, once that has succeeded.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use mvps_core::env::BufferError;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The content of the file `store`.
pub const STORE_FORMAT: &[u8] = b"mvps buffer store, format 1\n";

/// How long a lock is tried for that somebody has.
const LOCK_TIME_MAX: Duration = Duration::from_secs(1);
/// How long for one that a closed store of this process still has. Closing takes until the store's
/// threads have ended and its memory is free: seconds for gigabytes on a busy machine. On a disk
/// that does not answer it takes for ever.
const LEAVING_TIME_MAX: Duration = Duration::from_mins(5);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

const SYNCED_SEED: u64 = 0x6d76_7073_2073_796e;

/// Where the files of one image's buffer store are.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The directory of the image.
    pub image: PathBuf,
}

/// Which of a store's databases. They are numbered as they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DatabaseNumber(pub u64);

impl DatabaseNumber {
    /// The first database of a new store.
    pub const FIRST: Self = Self(0);

    /// The next number, while there is one.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

/// In a database's directory: everything that it begins with is on the disk, and it counts.
const COMPLETE: &str = "complete";

impl Layout {
    /// The directory of a database.
    pub fn database(&self, number: DatabaseNumber) -> PathBuf {
        match number {
            DatabaseNumber::FIRST => self.image.join("fjall"),
            DatabaseNumber(number) => self.image.join(format!("fjall-{number}")),
        }
    }

    /// Every database that has a directory, ascending, whether it counts or not.
    pub fn databases(&self) -> io::Result<Vec<DatabaseNumber>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.image)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let number = match name {
                Some("fjall") => Some(0),
                Some(name) => name.strip_prefix("fjall-").and_then(|n| n.parse().ok()),
                None => None,
            };
            // Written another way, it is not ours.
            let ours = number.map(DatabaseNumber);
            found.extend(ours.filter(|number| self.database(*number) == path));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Whether a database counts.
    pub fn is_complete(&self, number: DatabaseNumber) -> io::Result<bool> {
        let directory = self.database(number);
        match number {
            DatabaseNumber::FIRST => fs::exists(directory),
            _ => says_complete(&directory),
        }
    }

    /// Where earlier versions made a database to replace the other.
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
    /// The store is closed, and whatever else holds this is about to let go.
    leaving: AtomicBool,
}

impl DirectoryLock {
    /// Takes the lock, waiting for `earlier`, the store's last one in this process, if that is
    /// leaving.
    pub fn take(layout: &Layout, earlier: &Weak<Self>) -> Result<Self, BufferError> {
        let path = layout.image.join("lock");
        let failed = |error: io::Error| BufferError::Io {
            reason: format!("{}: {error}", path.display()),
        };
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let file = options.open(&path).map_err(failed)?;
        let is_busy = |error: &TryLockError| matches!(error, TryLockError::WouldBlock);
        let is_leaving = || earlier.upgrade().is_some_and(|it| it.is_leaving());
        match await_lock(|| file.try_lock(), is_busy, is_leaving) {
            Ok(()) => Ok(Self {
                _file: file,
                leaving: AtomicBool::new(false),
            }),
            Err(TryLockError::WouldBlock) => Err(BufferError::Locked {
                path: layout.image.display().to_string(),
            }),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// The store was closed.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }
}

/// The directory of an open database. It is there, and locked for this process, for as long as
/// anybody has this: fjall opens files by their names whenever it reads.
#[derive(Debug)]
pub struct DatabaseDirectory {
    path: PathBuf,
    number: DatabaseNumber,
    unneeded: AtomicBool,
    lock: Arc<DirectoryLock>,
}

impl DatabaseDirectory {
    /// The directory of database `number`.
    pub fn new(layout: &Layout, number: DatabaseNumber, lock: Arc<DirectoryLock>) -> Self {
        Self {
            path: layout.database(number),
            number,
            unneeded: AtomicBool::new(false),
            lock,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its number.
    pub fn number(&self) -> DatabaseNumber {
        self.number
    }

    /// What keeps the store locked.
    pub fn lock(&self) -> &Arc<DirectoryLock> {
        &self.lock
    }

    /// The store needs it no more, and says so on the disk: it goes with its last holder.
    pub fn remove_when_unused(&self) {
        self.unneeded.store(true, Ordering::SeqCst);
    }
}

impl Drop for DatabaseDirectory {
    fn drop(&mut self) {
        // The lock is let go of only after this. Whatever is left goes at the next opening.
        if *self.unneeded.get_mut()
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            let path = self.path.display();
            tracing::warn!(%path, %error, "a database that nobody needs was not removed");
        }
    }
}

/// Tries to take a lock: for a moment, and longer while who has it is leaving.
pub fn await_lock<T, E>(
    mut take: impl FnMut() -> Result<T, E>,
    is_busy: impl Fn(&E) -> bool,
    is_leaving: impl Fn() -> bool,
) -> Result<T, E> {
    let began = Instant::now();
    let mut end = began + LOCK_TIME_MAX;
    let mut told = false;
    loop {
        let now = Instant::now();
        if is_leaving() && now < began + LEAVING_TIME_MAX {
            end = now + LOCK_TIME_MAX;
            if now > began + LOCK_TIME_MAX && !std::mem::replace(&mut told, true) {
                tracing::warn!("waiting for the buffer store's last closing");
            }
        }
        match take() {
            Err(error) if is_busy(&error) && now < end => thread::sleep(LOCK_PAUSE),
            outcome => return outcome,
        }
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

/// Makes a database count. Everything in it has to be synced before, and so has its entry.
pub fn complete(database: &Path) -> io::Result<()> {
    write_durably(&database.join(COMPLETE), &[])
}

/// Whether the directory of a database says that it counts.
pub fn says_complete(database: &Path) -> io::Result<bool> {
    fs::exists(database.join(COMPLETE))
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

/// What was cut off a journal, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The journal.
    pub journal: PathBuf,
    /// Its length now.
    pub offset: u64,
    /// Where the bytes are that were cut off.
    pub kept: PathBuf,
    /// How many.
    pub bytes: u64,
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
