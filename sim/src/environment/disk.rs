//! A machine's disk: buffer stores in memory, or the content log on files that forget by the sector.

use std::sync::Arc;
use std::time::Duration;

use madsim::runtime::NodeHandle;
use madsim::time::sleep;
use mvps_core::content_log::LogBufferStores;
use mvps_core::env::memory::{
    BufferCopy, BufferFault, Crash, DiskFault, FolderCopy, MemoryBufferStores, MemoryFiles, Strike,
};
use mvps_core::env::{
    BufferError, BufferStores, Clock, DiskSpace, Entropy, EntropyExt, File, Files, FolderLock,
    OpenMode, Recovered,
};
use mvps_core::ids::ImageId;

use crate::random::RandomStream;

/// The next generation's file is made when the active one has so many bytes: with the second or
/// third write.
const PREPARE_BYTES: u64 = 16 << 10;

/// A disk. Clones are the same one.
#[derive(Clone)]
pub enum Disk {
    /// Of records, as the contract of buffer stores has them.
    Records(MemoryBufferStores),
    /// Of files, under the code that runs in production.
    Files(MemoryFiles),
}

/// What was on a disk once, of one image.
#[derive(Clone)]
pub enum DiskCopy {
    /// Of records.
    Records(BufferCopy),
    /// Of files.
    Files(FolderCopy),
}

impl Disk {
    /// Opens the buffer store of `image`, in the process whose tasks run on `node`.
    pub async fn open(
        &self,
        image: &ImageId,
        node: Option<&NodeHandle>,
        random: &Arc<RandomStream>,
        longest: Duration,
    ) -> Result<Recovered, BufferError> {
        match self {
            Self::Records(stores) => stores.open(image).await,
            Self::Files(files) => {
                let entropy = mvps_core::env::memory::SeededEntropy::new(random.bits());
                let files = SlowFiles {
                    files: files.clone(),
                    node: node.cloned(),
                    random: Arc::clone(random),
                    longest,
                };
                let stores = LogBufferStores::new(Arc::new(files), Arc::new(entropy));
                stores.preparing_at(PREPARE_BYTES).open(image).await
            }
        }
    }

    /// Where the buffer store of `image` is.
    #[must_use]
    pub fn location(&self, image: &ImageId) -> String {
        match self {
            Self::Records(stores) => stores.location(image),
            Self::Files(files) => files.location(image.as_str()),
        }
    }

    /// Syncs of records take so long. Files have their delays from elsewhere.
    pub fn set_sync_delay(&self, clock: Arc<dyn Clock>, sync: Duration) {
        if let Self::Records(stores) = self {
            stores.set_delays(clock, Duration::ZERO, sync);
        }
    }

    /// Ends every process of the machine.
    pub fn crash(&self, crash: Crash, entropy: &dyn Entropy) {
        match self {
            Self::Records(stores) => stores.crash(crash, entropy),
            Self::Files(files) => files.crash(crash, entropy),
        }
    }

    /// On files, the process is as good as dead after so many calls that change any.
    pub fn stop_after(&self, calls: u64) {
        if let Self::Files(files) = self {
            files.stop_after(Some(calls));
        }
    }

    /// The room on it, if it is one of files.
    #[must_use]
    pub fn space(&self) -> Option<DiskSpace> {
        match self {
            Self::Records(_) => None,
            Self::Files(files) => files.space().ok(),
        }
    }

    /// On files, a stranger's file takes all the room that is left, or is removed.
    pub fn fill(&self, is_full: bool) {
        if let Self::Files(files) = self {
            files.set_capacity(is_full.then_some(0));
        }
    }

    /// Whether a process has made its last call.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        matches!(self, Self::Files(files) if files.has_stopped())
    }

    /// Adds a failure to those that `image` is going to meet.
    pub fn script(&self, image: &ImageId, fault: BufferFault) {
        match self {
            Self::Records(stores) => stores.script(image, fault),
            Self::Files(files) => files.script(file_fault(fault)),
        }
    }

    /// `tell` is called whenever something strikes.
    pub fn watch(&self, tell: impl Fn(Strike) + Send + Sync + 'static) {
        match self {
            Self::Records(stores) => stores.watch(move |_, strike| tell(strike)),
            Self::Files(files) => {
                files.watch(move |_, fault| tell(Strike::Fault(buffer_fault(fault))));
            }
        }
    }

    /// Forgets all that is scripted.
    pub fn heal(&self) {
        match self {
            Self::Records(stores) => stores.heal(),
            Self::Files(files) => files.heal(),
        }
    }

    /// The buffer store of `image` is gone.
    pub fn lose(&self, image: &ImageId) {
        match self {
            Self::Records(stores) => stores.lose(image),
            Self::Files(files) => files.lose_folder(image.as_str()),
        }
    }

    /// A copy of the buffer store of `image`, if there is one.
    #[must_use]
    pub fn copy(&self, image: &ImageId) -> Option<DiskCopy> {
        match self {
            Self::Records(stores) => stores.copy(image).map(DiskCopy::Records),
            Self::Files(files) => {
                let is_there = !files.paths(image.as_str()).is_empty();
                is_there.then(|| DiskCopy::Files(files.copy_folder(image.as_str())))
            }
        }
    }

    /// Puts a copy in the place of the buffer store of `image`.
    ///
    /// # Panics
    /// If it is a copy of a disk of the other kind.
    pub fn restore(&self, image: &ImageId, copy: &DiskCopy) {
        match (self, copy) {
            (Self::Records(stores), DiskCopy::Records(copy)) => stores.restore(image, copy),
            (Self::Files(files), DiskCopy::Files(copy)) => {
                files.restore_folder(image.as_str(), copy);
            }
            _ => panic!("all disks of a run are of one kind"),
        }
    }

    /// A few bytes of a record are damaged; whether there was any.
    pub fn rot(&self, image: &ImageId, entropy: &dyn Entropy) -> bool {
        match self {
            Self::Records(stores) => stores.rot(image, entropy).is_some(),
            Self::Files(files) => {
                let paths = files.paths(image.as_str());
                let mut logs = paths.into_iter().filter(|path| path.ends_with(".log"));
                let Some(log) = logs.next_back() else {
                    return false;
                };
                let bytes = files.contents(&log).unwrap_or_default();
                let at = entropy.below(bytes.len() as u64);
                let byte = usize::try_from(at).ok().and_then(|at| bytes.get(at));
                let Some(byte) = byte else { return false };
                files.overwrite(&log, at, &[byte ^ 0x40]);
                true
            }
        }
    }

    /// The buffer store of `image` is damaged as a whole.
    pub fn damage(&self, image: &ImageId) {
        match self {
            Self::Records(stores) => stores.damage(image),
            Self::Files(files) => {
                for path in files.paths(image.as_str()) {
                    let length = files.contents(&path).map_or(0, |it| it.len());
                    files.overwrite(&path, 0, &vec![0xa5; length]);
                }
            }
        }
    }
}

fn file_fault(fault: BufferFault) -> DiskFault {
    match fault {
        BufferFault::SyncFails => DiskFault::SyncFails,
        BufferFault::DiskFull => DiskFault::DiskFull,
        BufferFault::WriteFails => DiskFault::WriteFails,
        BufferFault::SealFails => DiskFault::SyncFolderFails,
        BufferFault::ReadFails => DiskFault::ReadFails,
        BufferFault::OpenFails => DiskFault::OpenFails,
    }
}

fn buffer_fault(fault: DiskFault) -> BufferFault {
    match fault {
        DiskFault::SyncFails => BufferFault::SyncFails,
        DiskFault::DiskFull => BufferFault::DiskFull,
        DiskFault::WriteFails => BufferFault::WriteFails,
        DiskFault::SyncFolderFails => BufferFault::SealFails,
        DiskFault::ReadFails => BufferFault::ReadFails,
        DiskFault::OpenFails => BufferFault::OpenFails,
    }
}

/// Files on which whatever waits for the disk takes a while.
pub(super) struct SlowFiles {
    pub(super) files: MemoryFiles,
    /// Where jobs run; `None` if they run at once.
    pub(super) node: Option<NodeHandle>,
    pub(super) random: Arc<RandomStream>,
    pub(super) longest: Duration,
}

impl Files for SlowFiles {
    fn make_folder(&self, folder: &str) -> std::io::Result<()> {
        self.files.make_folder(folder)
    }

    fn names(&self, folder: &str) -> std::io::Result<Vec<String>> {
        self.files.names(folder)
    }

    fn open(&self, path: &str, mode: OpenMode) -> std::io::Result<Arc<dyn File>> {
        self.files.open(path, mode)
    }

    fn remove(&self, path: &str) -> std::io::Result<()> {
        self.files.remove(path)
    }

    fn sync_folder(&self, folder: &str) -> std::io::Result<()> {
        self.files.sync_folder(folder)
    }

    fn lock(&self, folder: &str) -> std::io::Result<Option<Box<dyn FolderLock>>> {
        self.files.lock(folder)
    }

    fn space(&self) -> std::io::Result<DiskSpace> {
        self.files.space()
    }

    fn location(&self, folder: &str) -> String {
        self.files.location(folder)
    }

    fn aside(&self, job: Box<dyn FnOnce() + Send>) {
        let Some(node) = &self.node else {
            return job();
        };
        let takes = self.random.duration(Duration::from_millis(1), self.longest);
        node.spawn(async move {
            sleep(takes).await;
            job();
        });
    }
}
