//! The local disk: [`mvps_core::env::Files`] on the operating system, below one folder.
//!
//! Reading order: [`SystemFiles`] here (names and folders), `file` (what an open file does), `lock`.
//!
//! Invariants: no path leaves the folder. Every error names the path it is about and keeps the
//! kind the system gave it. Nothing is synced but what the caller asks to sync, except the names of
//! new folders.

mod file;
mod lock;

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mvps_core::env::{DiskSpace, File, Files, FolderLock, OpenMode};
use rustix::io::Errno;
use tokio::runtime::Handle;

use file::SystemFile;

/// What is buffered is an image's content: nobody else's business.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Files of the operating system below one folder.
#[derive(Debug, Clone)]
pub struct SystemFiles {
    root: PathBuf,
}

impl SystemFiles {
    /// Files below `root`, which need not be there: [`Files::make_folder`] makes it.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where `path` is; refuses what is not a plain path of one or two names.
    fn resolve(&self, path: &str) -> io::Result<PathBuf> {
        let is_name = |part: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            !matches!(part, "" | "." | "..") && part.bytes().all(plain)
        };
        if path.split('/').count() <= 2 && path.split('/').all(is_name) {
            Ok(self.root.join(path))
        } else {
            let reason = format!("not a path of a folder and a file: {path:?}");
            Err(io::Error::new(io::ErrorKind::InvalidInput, reason))
        }
    }
}

impl Files for SystemFiles {
    fn make_folder(&self, folder: &str) -> io::Result<()> {
        let path = self.resolve(folder)?;
        make_folders(&self.root, FOLDER_MODE).map_err(|error| at(&self.root, error))?;
        make_folders(&path, FOLDER_MODE).map_err(|error| at(&path, error))
    }

    fn names(&self, folder: &str) -> io::Result<Vec<String>> {
        let path = self.resolve(folder)?;
        names(&path).map_err(|error| at(&path, error))
    }

    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let path = self.resolve(path)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(FILE_MODE);
        options.create_new(mode == OpenMode::New);
        let file = options.open(&path).map_err(|error| at(&path, error))?;
        Ok(Arc::new(SystemFile::new(file, path)))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let path = self.resolve(path)?;
        fs::remove_file(&path).map_err(|error| at(&path, error))
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        let path = self.resolve(folder)?;
        sync_folder(&path).map_err(|error| at(&path, error))
    }

    fn lock(&self, folder: &str) -> io::Result<Option<Box<dyn FolderLock>>> {
        let path = self.resolve(folder)?.join(lock::NAME);
        lock::take(&path).map_err(|error| at(&path, error))
    }

    fn space(&self) -> io::Result<DiskSpace> {
        // It is made with the first image.
        let there = self.root.ancestors().find(|path| path.is_dir());
        let there = there.unwrap_or(Path::new("."));
        let space = rustix::fs::statvfs(there).map_err(io::Error::from);
        let space = space.map_err(|error| at(there, error))?;
        Ok(DiskSpace {
            free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
            total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
        })
    }

    fn location(&self, folder: &str) -> String {
        self.root.join(folder).display().to_string()
    }

    fn aside(&self, job: Box<dyn FnOnce() + Send>) {
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(job)),
            Err(_) => job(),
        }
    }
}

/// The error, naming the path. It is of the same kind, except that too many open files, for which
/// the standard library has no kind, are [`io::ErrorKind::ResourceBusy`]: it passes.
fn at(path: &Path, error: io::Error) -> io::Error {
    let kind = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE) => io::ErrorKind::ResourceBusy,
        _ => error.kind(),
    };
    io::Error::new(kind, format!("{}: {error}", path.display()))
}

/// Makes a folder and those above it that are missing, and syncs the names.
pub(crate) fn make_folders(path: &Path, mode: u32) -> io::Result<()> {
    let above = match path.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        // The root.
        None => return Ok(()),
    };
    let make = || DirBuilder::new().mode(mode).create(path);
    let mut made = make();
    if matches!(&made, Err(error) if error.kind() == io::ErrorKind::NotFound) {
        make_folders(above, mode)?;
        made = make();
    }
    match made {
        Ok(()) => sync_folder(above),
        // Its name is synced all the same: whoever made it may have been killed before that. Not
        // one of ours, if we may not even open the folder above.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            match sync_folder(above) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
                synced => synced,
            }
        }
        Err(error) => Err(error),
    }
}

/// Brings the names in a folder to the disk.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// What is in a folder. A name that is not ours may be no text; nobody can ask for it then.
fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

#[cfg(test)]
mod content_log_tests;
#[cfg(test)]
mod tests;
