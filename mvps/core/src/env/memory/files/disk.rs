//! The state of one machine's disk: folders, files, and who has what open; and what processes do
//! with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};

use super::content::Content;
use super::folder::{FileId, Folder};
use super::schedule::{DiskFault, Refusal, Schedule, process_ended};
use crate::env::{DiskSpace, OpenMode};

/// An opening of a file, or a lock; never used twice on one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HoldId(u64);

/// A file's name, in parts.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) folder: &'a str,
    pub(super) name: &'a str,
}

/// A file that a living process has open.
pub(super) struct Opening {
    pub(super) folder: String,
    file: FileId,
}

/// One machine's disk. What is not in `openings` and `locks` is of a process that has ended.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) schedule: Schedule,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) folders: BTreeMap<String, Folder>,
    pub(super) files: BTreeMap<FileId, Content>,
    pub(super) openings: BTreeMap<HoldId, Opening>,
    pub(super) locks: BTreeMap<String, HoldId>,
    last_id: u64,
}

/// What processes do with folders.
impl Disk {
    pub(super) fn make_folder(&mut self, folder: &str) -> Result<(), Refusal> {
        self.schedule.begin_mutating(&[])?;
        self.folders.entry(folder.to_owned()).or_default();
        Ok(())
    }

    /// The names in a folder; those of the folders if its name is empty.
    pub(super) fn names(&mut self, folder: &str) -> Result<Vec<String>, Refusal> {
        self.schedule.begin_reading(&[])?;
        if folder.is_empty() {
            return Ok(self.folders.keys().cloned().collect());
        }
        let names = self.living_folder(folder)?.names();
        Ok(names.keys().cloned().collect())
    }

    pub(super) fn open(&mut self, at: Place<'_>, mode: OpenMode) -> Result<HoldId, Refusal> {
        match mode {
            OpenMode::Existing => self.schedule.begin_reading(&[DiskFault::OpenFails]),
            OpenMode::New => {
                let possible = [DiskFault::OpenFails, DiskFault::DiskFull];
                self.schedule.begin_mutating(&possible)
            }
        }?;
        let found = self.living_folder(at.folder)?.file(at.name);
        let file = match (mode, found) {
            (OpenMode::Existing, Some(file)) => file,
            (OpenMode::Existing, None) => return Err(not_found(at.name).into()),
            (OpenMode::New, Some(_)) => {
                return Err(io::Error::from(io::ErrorKind::AlreadyExists).into());
            }
            (OpenMode::New, None) => {
                let file = self.add_file(Content::default());
                self.living_folder(at.folder)?.insert(at.name, file);
                file
            }
        };
        let hold = HoldId(self.next_id());
        let folder = at.folder.to_owned();
        self.openings.insert(hold, Opening { folder, file });
        Ok(hold)
    }

    pub(super) fn remove(&mut self, at: Place<'_>) -> Result<(), Refusal> {
        self.schedule.begin_mutating(&[])?;
        if !self.living_folder(at.folder)?.remove(at.name) {
            return Err(not_found(at.name).into());
        }
        self.forget_files();
        Ok(())
    }

    pub(super) fn sync_folder(&mut self, folder: &str) -> Result<(), Refusal> {
        self.schedule
            .begin_mutating(&[DiskFault::SyncFolderFails])?;
        self.living_folder(folder)?.sync();
        self.forget_files();
        Ok(())
    }

    /// `None` if somebody has the lock.
    pub(super) fn lock(&mut self, folder: &str) -> Result<Option<HoldId>, Refusal> {
        self.schedule.begin_reading(&[])?;
        self.living_folder(folder)?;
        if self.locks.contains_key(folder) {
            return Ok(None);
        }
        let hold = HoldId(self.next_id());
        self.locks.insert(folder.to_owned(), hold);
        Ok(Some(hold))
    }

    /// Gives a lock back, unless the process that took it has ended.
    pub(super) fn unlock(&mut self, folder: &str, hold: HoldId) {
        if self.locks.get(folder) == Some(&hold) {
            self.locks.remove(folder);
        }
    }

    fn living_folder(&mut self, folder: &str) -> io::Result<&mut Folder> {
        self.folders
            .get_mut(folder)
            .ok_or_else(|| not_found(folder))
    }
}

/// What processes do with open files.
impl Disk {
    pub(super) fn close(&mut self, hold: HoldId) {
        // A file without a name is forgotten when names change next.
        self.openings.remove(&hold);
    }

    pub(super) fn read(
        &mut self,
        hold: HoldId,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, Refusal> {
        let file = self.opened(hold)?;
        self.schedule.begin_reading(&[DiskFault::ReadFails])?;
        Ok(self.content(file).read(offset, buffer))
    }

    pub(super) fn length(&mut self, hold: HoldId) -> Result<u64, Refusal> {
        let file = self.opened(hold)?;
        Ok(self.content(file).bytes().len() as u64)
    }

    pub(super) fn write(
        &mut self,
        hold: HoldId,
        offset: u64,
        parts: &[IoSlice<'_>],
    ) -> Result<(), Refusal> {
        let file = self.opened(hold)?;
        let possible = [DiskFault::WriteFails, DiskFault::DiskFull];
        let met = self.schedule.begin_mutating(&possible);
        let parts: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
        let bytes = parts.concat();
        let room = self.end_of_room(file).saturating_sub(offset);
        let wanted = match met {
            Ok(()) => bytes.len(),
            Err(_) => bytes.len() / 2,
        };
        let count = wanted.min(usize::try_from(room).unwrap_or(usize::MAX));
        self.content(file).write(index(offset)?, &bytes[..count]);
        met?;
        if count < bytes.len() {
            return Err(Refusal::full());
        }
        Ok(())
    }

    pub(super) fn set_length(&mut self, hold: HoldId, length: u64) -> Result<(), Refusal> {
        let file = self.opened(hold)?;
        self.schedule.begin_mutating(&[])?;
        if length > self.end_of_room(file) {
            return Err(Refusal::full());
        }
        self.content(file).set_length(index(length)?);
        Ok(())
    }

    pub(super) fn sync(&mut self, hold: HoldId) -> Result<(), Refusal> {
        let file = self.opened(hold)?;
        let met = self.schedule.begin_mutating(&[DiskFault::SyncFails]);
        match &met {
            Ok(()) => self.content(file).sync(),
            Err(refusal) if refusal.fault.is_some() => self.content(file).fail_sync(),
            // The process ended before it came to that.
            Err(_) => {}
        }
        met
    }

    fn opened(&self, hold: HoldId) -> io::Result<FileId> {
        self.schedule.alive()?;
        let opening = self.openings.get(&hold).ok_or_else(process_ended)?;
        Ok(opening.file)
    }

    /// The room that the capacity leaves; without one, all there could be.
    pub(super) fn space(&self) -> DiskSpace {
        let total_bytes = self.capacity_bytes.unwrap_or(u64::MAX);
        let taken = self.files.values().map(Content::occupied_bytes).sum();
        DiskSpace {
            free_bytes: total_bytes.saturating_sub(taken),
            total_bytes,
        }
    }

    /// How far a file may reach: where it does already, or as far as the capacity allows.
    fn end_of_room(&self, file: FileId) -> u64 {
        let Some(capacity) = self.capacity_bytes else {
            return u64::MAX;
        };
        let names = self.folders.values().flat_map(|it| it.names().values());
        let mut others: BTreeSet<FileId> = names.copied().collect();
        others.extend(self.openings.values().map(|it| it.file));
        others.remove(&file);
        let others: u64 = others
            .iter()
            .map(|it| self.files[it].occupied_bytes())
            .sum();
        let own = self.files[&file].occupied_bytes();
        own.max(capacity.saturating_sub(others))
    }
}

/// What both need.
impl Disk {
    pub(super) fn add_file(&mut self, content: Content) -> FileId {
        let file = FileId(self.next_id());
        self.files.insert(file, content);
        file
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn content(&mut self, file: FileId) -> &mut Content {
        let content = self.files.get_mut(&file);
        content.expect("a file stays while it has a name or is open")
    }

    /// Drops the files that nobody has open and no name can mean any more.
    pub(super) fn forget_files(&mut self) {
        let named = self.folders.values().flat_map(Folder::mentioned);
        let opened = self.openings.values().map(|it| it.file);
        let wanted: BTreeSet<FileId> = named.chain(opened).collect();
        self.files.retain(|file, _| wanted.contains(file));
    }
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no {name}"))
}

/// An offset in memory.
pub(super) fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))
}
