//! The local disk as the content log sees it: files of bytes below one folder.
//!
//! A disk forgets. What was written, made, renamed or removed survives the end of the process at
//! once, and a power cut only after a sync: of the file for its bytes and its length, of the folder
//! for its names. Until then each sector of 512 bytes, the length and each name is on its own.
//! After a sync that failed the system may call bytes written that are not (they are read, and gone
//! after a power cut), and says so once.
//!
//! Calls may wait for the disk. Whoever must not wait calls from within [`Files::aside`].

use std::io::{self, IoSlice};
use std::sync::Arc;

/// An open file. It stays readable and writable after its name was removed.
pub trait File: Send + Sync + 'static {
    /// Reads into `buffer` from `offset` on; returns how many bytes there were, fewer than asked
    /// for only at the end of the file.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `parts`, one behind the other, from `offset` on. The file grows as needed.
    ///
    /// # Errors
    /// What the system says; any of the bytes may have been written.
    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn length(&self) -> io::Result<u64>;

    /// Cuts the file, or makes it longer with zeroes.
    ///
    /// # Errors
    /// What the system says.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Brings the file's bytes and its length to the disk.
    ///
    /// # Errors
    /// What the system says. Whatever was not synced before must be taken for lost.
    fn sync(&self) -> io::Result<()>;
}

/// Whether a call failed for want of room: the disk or the quota is full, or the process has no
/// descriptor left. It may succeed later. Of a failed sync this says nothing: what it did not bring
/// to the disk is lost.
#[must_use]
pub fn is_want_of_room(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ResourceBusy, StorageFull};
    matches!(error.kind(), QuotaExceeded | ResourceBusy | StorageFull)
}

/// The room on a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// What may still be written.
    pub free_bytes: u64,
    /// The size of the file system.
    pub total_bytes: u64,
}

/// What keeps others out; dropped, it lets them in.
pub trait FolderLock: Send + Sync + 'static {}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// It is there.
    Existing,
    /// It is not there, and is made. An error of kind [`io::ErrorKind::AlreadyExists`] if it is.
    New,
}

/// Files below one folder, in folders of their own. A path is a folder's name, or a folder's name,
/// `/` and a file's name; names are of letters, digits, `-`, `_` and `.`.
pub trait Files: Send + Sync + 'static {
    /// Makes the folder if it is not there, and its name durable.
    ///
    /// # Errors
    /// What the system says.
    fn make_folder(&self, folder: &str) -> io::Result<()>;

    /// The names of the files and folders in a folder, in no order.
    ///
    /// # Errors
    /// What the system says.
    fn names(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::ResourceBusy`] if the process has no descriptor left.
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn File>>;

    /// Removes a file's name. Whoever has it open keeps it.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Brings the names in a folder to the disk.
    ///
    /// # Errors
    /// What the system says.
    fn sync_folder(&self, folder: &str) -> io::Result<()>;

    /// Locks a folder against other processes, and against others in this one; `None` if somebody
    /// has it.
    ///
    /// # Errors
    /// What the system says.
    fn lock(&self, folder: &str) -> io::Result<Option<Box<dyn FolderLock>>>;

    /// The room on the disk. Does not wait for it.
    ///
    /// # Errors
    /// What the system says.
    fn space(&self) -> io::Result<DiskSpace>;

    /// Where a folder is, for people.
    fn location(&self, folder: &str) -> String;

    /// Runs `job`, which waits for the disk, where it holds nobody up.
    fn aside(&self, job: Box<dyn FnOnce() + Send>);
}
