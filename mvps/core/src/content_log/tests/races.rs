//! What happens while a call of the disk is under way.

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::FutureExt;

use super::player::image;
use crate::content_log::LogBufferStores;
use crate::env::memory::{Crash, MemoryFiles, SeededEntropy};
use crate::env::{
    BufferBatch, BufferRecord, BufferStores, DiskSpace, File, Files, FolderLock, OpenMode, PageRun,
    RecordRef,
};
use crate::ids::{Lsn, PageNumber};

/// What is to happen once, while the superblock is synced.
type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// A disk on which something happens while the superblock is synced.
struct HookedFiles(MemoryFiles, Hook);

struct HookedFile(Arc<dyn File>, Hook);

impl File for HookedFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.0.write_at(offset, parts)
    }

    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_length(length)
    }

    fn sync(&self) -> io::Result<()> {
        let hook = self.1.lock().expect("hooks do not panic").take();
        if let Some(hook) = hook {
            hook();
        }
        self.0.sync()
    }
}

impl Files for HookedFiles {
    fn make_folder(&self, folder: &str) -> io::Result<()> {
        self.0.make_folder(folder)
    }

    fn names(&self, folder: &str) -> io::Result<Vec<String>> {
        self.0.names(folder)
    }

    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = self.0.open(path, mode)?;
        if path.ends_with("superblock") {
            return Ok(Arc::new(HookedFile(file, Arc::clone(&self.1))));
        }
        Ok(file)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.0.remove(path)
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.0.sync_folder(folder)
    }

    fn lock(&self, folder: &str) -> io::Result<Option<Box<dyn FolderLock>>> {
        self.0.lock(folder)
    }

    fn space(&self) -> io::Result<DiskSpace> {
        self.0.space()
    }

    fn location(&self, folder: &str) -> String {
        self.0.location(folder)
    }

    fn aside(&self, job: Box<dyn FnOnce() + Send>) {
        self.0.aside(job);
    }
}

fn batch(lsn: u64) -> BufferBatch {
    let at = RecordRef {
        first: PageNumber(lsn),
        lsn: Lsn(lsn),
    };
    BufferBatch {
        last_lsn: Lsn(lsn),
        records: vec![BufferRecord {
            at,
            run: PageRun::Data(Bytes::from(vec![7; 8192])),
        }],
    }
}

/// What comes of a call of a store on a disk that does not wait.
fn now<T>(call: impl Future<Output = T>) -> T {
    call.now_or_never().expect("it does not wait")
}

/// A flush that is acknowledged while a generation is being dropped does not depend on whether the
/// drop is remembered.
#[test]
fn a_flush_within_a_drop_is_kept() {
    for seed in 0..40 {
        let files = MemoryFiles::new();
        let hook = Hook::default();
        let stores = LogBufferStores::new(
            Arc::new(HookedFiles(files.clone(), Arc::clone(&hook))),
            Arc::new(SeededEntropy::new(seed)),
        );
        let opened = now(stores.open(&image())).expect("an empty disk");
        let store = Arc::clone(&opened.store);
        now(store.commit(batch(1))).expect("a commit");
        let (sealed, _) = now(store.seal()).expect("a seal");
        let (within, disk) = (Arc::clone(&store), files.clone());
        let flush = move || {
            now(within.commit(batch(2))).expect("a commit");
            now(within.sync()).expect("a sync");
            disk.crash(Crash::PowerCut, &SeededEntropy::new(seed));
        };
        *hook.lock().expect("hooks do not panic") = Some(Box::new(flush));
        let dropped = now(store.drop_generation(sealed));
        assert!(dropped.is_err(), "the power failed before it was durable");
        drop((store, opened));
        let again = now(stores.open(&image()));
        let again = again.unwrap_or_else(|error| panic!("{seed}: {error}"));
        assert_eq!(again.last_lsn, Lsn(2), "{seed}: a flushed commit is gone");
    }
}
