//! What a process holds of a disk: open files and locks.

use std::io::{self, IoSlice};

use super::disk::HoldId;
use super::memory_files::MemoryFiles;
use crate::env::{File, FolderLock};

/// One opening of one file.
pub(super) struct MemoryFile {
    files: MemoryFiles,
    /// For the watcher; the name may be another file's by now.
    path: String,
    hold: HoldId,
}

impl MemoryFile {
    pub(super) fn new(files: MemoryFiles, path: &str, hold: HoldId) -> Self {
        let path = path.to_owned();
        Self { files, path, hold }
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        self.files.release(|disk| disk.close(self.hold));
    }
}

impl File for MemoryFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let files = &self.files;
        files.call(&self.path, |disk| disk.read(self.hold, offset, buffer))
    }

    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let files = &self.files;
        files.call(&self.path, |disk| disk.write(self.hold, offset, parts))
    }

    fn length(&self) -> io::Result<u64> {
        self.files.call(&self.path, |disk| disk.length(self.hold))
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let files = &self.files;
        files.call(&self.path, |disk| disk.set_length(self.hold, length))
    }

    fn sync(&self) -> io::Result<()> {
        self.files.call(&self.path, |disk| disk.sync(self.hold))
    }
}

/// One lock of one folder.
pub(super) struct MemoryLock {
    files: MemoryFiles,
    folder: String,
    hold: HoldId,
}

impl MemoryLock {
    pub(super) fn new(files: MemoryFiles, folder: &str, hold: HoldId) -> Self {
        Self {
            files,
            folder: folder.to_owned(),
            hold,
        }
    }
}

impl FolderLock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let files = &self.files;
        files.release(|disk| disk.unlock(&self.folder, self.hold));
    }
}
