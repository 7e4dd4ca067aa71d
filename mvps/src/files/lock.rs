//! A lock on a folder: `flock` on a file in it. The system lets go of it with the process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use mvps_core::env::FolderLock;

use super::FILE_MODE;

/// The file that is locked.
pub(super) const NAME: &str = "lock";

/// How long a lock is tried for that somebody has: it may be a part of this process, or another
/// process, that is just ending.
pub(super) const TIME_MAX: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// Holds a folder until dropped.
struct HeldLock {
    _file: File,
}

impl FolderLock for HeldLock {}

/// Takes the lock that `path` is; `None` if somebody has it and keeps it for [`TIME_MAX`].
pub(super) fn take(path: &Path) -> io::Result<Option<Box<dyn FolderLock>>> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    let file = options.mode(FILE_MODE).open(path)?;
    let end = Instant::now() + TIME_MAX;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(Box::new(HeldLock { _file: file }))),
            Err(TryLockError::WouldBlock) if Instant::now() < end => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}
