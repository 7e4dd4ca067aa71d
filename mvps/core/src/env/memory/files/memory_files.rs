//! The access to a disk in memory: that of processes, and that of tests.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::content::Content;
use super::disk::{Disk, Place, index};
use super::file::{MemoryFile, MemoryLock};
use super::outside::FolderCopy;
use super::schedule::{DiskFault, Refusal};
use crate::env::memory::Crash;
use crate::env::{DiskSpace, Entropy, File, Files, FolderLock, OpenMode};

/// Who is told of the scripted failures that strike, and of whose file or folder.
type Watcher = Arc<dyn Fn(&str, DiskFault) + Send + Sync>;

/// The disk of one machine. Clones are the same disk.
///
/// All calls are synchronous and return at once. The folder with the empty name has the folders in
/// it, for [`Files::names`] only.
#[derive(Clone, Default)]
pub struct MemoryFiles {
    disk: Arc<Mutex<Disk>>,
    watcher: Arc<Mutex<Option<Watcher>>>,
}

impl MemoryFiles {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends every process on this machine: all open files and locks are dead, and a stop is over.
    ///
    /// A power cut keeps or loses each unsynced sector, length and change of a name on its own; the
    /// length may also be between the old and the new. What it keeps is durable.
    pub fn crash(&self, crash: Crash, entropy: &dyn Entropy) {
        self.disk().crash(crash, entropy);
    }

    /// Adds a failure to those the processes are going to meet.
    pub fn script(&self, fault: DiskFault) {
        self.script_after(0, fault);
    }

    /// Adds a failure that lets `spared` calls pass which it applies to.
    pub fn script_after(&self, spared: usize, fault: DiskFault) {
        self.disk().schedule.script(spared, fault);
    }

    /// `tell` is called whenever a scripted failure strikes, with the file's path or the folder. It
    /// must not call the disk.
    pub fn watch(&self, tell: impl Fn(&str, DiskFault) + Send + Sync + 'static) {
        let mut watcher = self.watcher.lock().expect("nobody panics with this lock");
        *watcher = Some(Arc::new(tell));
    }

    /// All files together may be so long. Removed files count while they are open.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk().capacity_bytes = bytes;
    }

    /// Forgets the scripted failures and the capacity.
    pub fn heal(&self) {
        let mut disk = self.disk();
        disk.schedule.forget_faults();
        disk.capacity_bytes = None;
    }

    /// Lets `calls` more mutating calls through. The one after is the process's last: it fails, as
    /// does every later call of any kind until the next crash. A last `write_at` has written half
    /// of its bytes; any other call has done nothing. `None` takes back a stop that is to come.
    ///
    /// Mutating are `open` of a new file, `write_at`, `set_length`, `sync`,
    /// `sync_folder`, `remove` and `make_folder`.
    pub fn stop_after(&self, calls: Option<u64>) {
        self.disk().schedule.stop_after(calls);
    }

    /// Whether a process has made its last call, and no crash has followed yet.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.disk().schedule.has_stopped()
    }

    /// How many mutating calls living processes have made on this disk, failed ones included.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.disk().schedule.calls()
    }

    /// The paths of the files in a folder, in order; none if there is no such folder.
    #[must_use]
    pub fn paths(&self, folder: &str) -> Vec<String> {
        self.disk().paths(folder)
    }

    /// The bytes of a file as processes see them; `None` if there is no such file.
    #[must_use]
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        let place = place(path);
        let mut disk = self.disk();
        disk.find(place).map(|file| file.bytes().to_vec())
    }

    /// Bit rot: replaces bytes of a file, durably, as far as the file reaches.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn overwrite(&self, path: &str, offset: u64, bytes: &[u8]) {
        let offset = index(offset).expect("files fit into memory");
        self.damage(path, |file| file.overwrite(offset, bytes));
    }

    /// Cuts a file to `length` bytes, durably. A shorter one stays as it is.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn truncate(&self, path: &str, length: u64) {
        let length = index(length).expect("files fit into memory");
        self.damage(path, |file| file.truncate(length));
    }

    fn damage(&self, path: &str, act: impl FnOnce(&mut Content)) {
        let place = place(path);
        let found = self.disk().find(place).map(act);
        assert!(found.is_some(), "there is no file {path}");
    }

    /// Takes a file's name away, durably. Whoever has it open keeps it.
    pub fn delete(&self, path: &str) {
        let place = place(path);
        self.disk().delete(place);
    }

    /// A copy of a folder's files as processes see them, unsynced bytes included; or of the fact
    /// that there is no such folder.
    #[must_use]
    pub fn copy_folder(&self, folder: &str) -> FolderCopy {
        self.disk().copy_folder(folder)
    }

    /// Replaces a folder, durably, ending whoever had it open: a roll-back to an old copy, or
    /// another folder's or machine's files.
    pub fn restore_folder(&self, folder: &str, copy: &FolderCopy) {
        self.disk().restore_folder(folder, copy);
    }

    /// The folder is gone, and with it whoever had it open.
    pub fn lose_folder(&self, folder: &str) {
        self.disk().lose_folder(folder);
    }

    /// Exchanges two folders, durably, ending whoever had them open.
    pub fn swap_folders(&self, left: &str, right: &str) {
        self.disk().swap_folders(left, right);
    }

    /// How many sectors and changes of names in `folder` a power cut could lose now. A length
    /// counts if it is all that is unsynced of its file.
    #[must_use]
    pub fn unsynced(&self, folder: &str) -> usize {
        self.disk().unsynced(folder)
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("nobody panics with this lock")
    }

    /// Runs a process's call, and tells the watcher afterwards, without the lock, what struck it.
    pub(super) fn call<T>(
        &self,
        place: &str,
        act: impl FnOnce(&mut Disk) -> Result<T, Refusal>,
    ) -> io::Result<T> {
        let outcome = act(&mut self.disk());
        outcome.map_err(|refusal| {
            if let Some(fault) = refusal.fault {
                self.tell(place, fault);
            }
            refusal.error
        })
    }

    fn tell(&self, place: &str, fault: DiskFault) {
        let watcher = self
            .watcher
            .lock()
            .expect("nobody panics with this lock")
            .clone();
        if let Some(tell) = watcher {
            tell(place, fault);
        }
    }

    /// Gives something back. A panic that poisoned the lock is already on its way to the test.
    pub(super) fn release(&self, act: impl FnOnce(&mut Disk)) {
        if let Ok(mut disk) = self.disk.lock() {
            act(&mut disk);
        }
    }
}

impl Files for MemoryFiles {
    fn make_folder(&self, folder: &str) -> io::Result<()> {
        assert_name(folder);
        self.call(folder, |disk| disk.make_folder(folder))
    }

    fn names(&self, folder: &str) -> io::Result<Vec<String>> {
        self.call(folder, |disk| disk.names(folder))
    }

    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let place = place(path);
        let hold = self.call(path, |disk| disk.open(place, mode))?;
        Ok(Arc::new(MemoryFile::new(self.clone(), path, hold)))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let place = place(path);
        self.call(path, |disk| disk.remove(place))
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.call(folder, |disk| disk.sync_folder(folder))
    }

    fn lock(&self, folder: &str) -> io::Result<Option<Box<dyn FolderLock>>> {
        let hold = self.call(folder, |disk| disk.lock(folder))?;
        Ok(hold.map(|hold| -> Box<dyn FolderLock> {
            Box::new(MemoryLock::new(self.clone(), folder, hold))
        }))
    }

    fn space(&self) -> io::Result<DiskSpace> {
        Ok(self.disk().space())
    }

    fn location(&self, folder: &str) -> String {
        format!("memory:{folder}")
    }

    fn aside(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }
}

/// Takes a file's path apart. A path that [`Files`] does not know is the caller's mistake.
fn place(path: &str) -> Place<'_> {
    let parts = path.split_once('/');
    let (folder, name) = parts.expect("a file's path has a folder");
    assert_name(folder);
    assert_name(name);
    Place { folder, name }
}

fn assert_name(name: &str) {
    let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let good = !name.is_empty() && name.chars().all(known);
    assert!(good, "{name:?} is not a name of a file or folder");
}
