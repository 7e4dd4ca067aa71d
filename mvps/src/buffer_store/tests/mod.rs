//! The adapter against real files: conformance, kills, damage, failures. Each row of the decision
//! file's table of facts has a test here that fails if the fact is not handled.

mod agreement;
mod damage;
mod databases;
mod failures;
mod kill;
mod speed;
mod switch;

use std::fs;
use std::io;
use std::path::Path;

use bytes::Bytes;
use mvps_core::env::{BufferBatch, BufferRecord, PageRun, RecordRef, conformance};
use mvps_core::ids::{Lsn, PageNumber};
use tempfile::TempDir;

use super::files::{DatabaseNumber, SyncedFile};
use super::opened::Opened;
use super::opening::open_or_create;
use super::*;

impl FjallBufferStores {
    /// The same with databases that take `generations_max` generations.
    fn of(self, generations_max: u64) -> Self {
        Self {
            generations_max,
            ..self
        }
    }
}

/// A directory in memory where there is one: these tests open stores often, and every opening
/// syncs.
fn fast_directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn image() -> ImageId {
    ImageId::parse("disk").unwrap()
}

async fn open(root: &Path) -> Result<Recovered, BufferError> {
    FjallBufferStores::new(root).open(&image()).await
}

fn content(lsn: u64, bytes: usize) -> Bytes {
    let mut state = lsn | 1 << 40;
    let mut content = vec![0; bytes / 8 * 8];
    for word in content.chunks_exact_mut(8) {
        state = state.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ lsn;
        word.copy_from_slice(&state.to_le_bytes());
    }
    content.into()
}

fn name(lsn: u64) -> RecordRef {
    RecordRef {
        first: PageNumber(lsn * 100),
        lsn: Lsn(lsn),
    }
}

fn batch(lsn: u64, bytes: usize) -> BufferBatch {
    BufferBatch {
        last_lsn: Lsn(lsn),
        records: vec![BufferRecord {
            at: name(lsn),
            run: PageRun::Data(content(lsn, bytes)),
        }],
    }
}

#[test]
fn a_lock_is_waited_for_longer_while_its_holder_is_leaving() {
    let root = fast_directory();
    let layout = Layout {
        image: root.path().to_owned(),
    };
    let earlier = Arc::new(DirectoryLock::take(&layout, &Weak::new()).unwrap());
    let known = Arc::downgrade(&earlier);
    let refused = DirectoryLock::take(&layout, &known).unwrap_err();
    assert!(matches!(refused, BufferError::Locked { .. }), "{refused}");
    earlier.leave();
    let closing = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(2));
        drop(earlier);
    });
    DirectoryLock::take(&layout, &known).unwrap();
    closing.join().unwrap();
}

/// A reader of a store that is closed keeps its files for as long as it reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_closed_is_opened_again_once_its_last_reader_is_done() {
    let root = fast_directory();
    let stores = FjallBufferStores::new(root.path());
    let first = stores.open(&image()).await.unwrap();
    first.store.commit(batch(1, 4096)).await.unwrap();
    first.store.sync().await.unwrap();
    drop(first);
    let recovered = stores.open(&image()).await.unwrap();
    assert_eq!(verified_lsns(&recovered), [1]);
    let Recovered {
        store, generations, ..
    } = recovered;
    let refused = stores.open(&image()).await.err();
    assert!(
        matches!(refused, Some(BufferError::Locked { .. })),
        "it is open: {refused:?}"
    );
    drop(store);
    let reading = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(2));
        drop(generations);
    });
    let recovered = stores.open(&image()).await.unwrap();
    assert_eq!(verified_lsns(&recovered), [1]);
    reading.join().unwrap();
}

/// The LSNs of all records, ascending, after reading and comparing each.
fn verified_lsns(recovered: &Recovered) -> Vec<u64> {
    let mut lsns = Vec::new();
    for generation in &recovered.generations {
        for record in &generation.records {
            let lsn = record.at.lsn.0;
            let Some(bytes) = data_bytes(record) else {
                continue;
            };
            let read = generation.handle.read(record.at, 0..bytes).unwrap();
            assert_eq!(read, content(lsn, bytes), "LSN {lsn}");
            lsns.push(lsn);
        }
    }
    lsns.sort_unstable();
    lsns
}

fn data_bytes(record: &mvps_core::env::RecordEntry) -> Option<usize> {
    match record.header {
        mvps_core::env::RecordHeader::Data { bytes } => Some(bytes as usize),
        mvps_core::env::RecordHeader::Hole { .. } => None,
    }
}

/// What was written to a journal. The 64 MiB that it was made long are not read.
fn journal_bytes(path: &Path) -> Vec<u8> {
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;
    let file = fs::File::open(path).unwrap();
    let used = file.metadata().unwrap().blocks() * 512;
    let mut bytes = Vec::new();
    file.take(used).read_to_end(&mut bytes).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0);
    bytes.truncate(last.map_or(0, |last| last + 1));
    bytes
}

/// Copies a directory as a power cut would leave it, had everything been written back. Unused space
/// at the end of journals is left out. Who had it open may still be about to close it, and remove
/// what it needs no more.
fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_directory(&path, &target);
        } else if path.extension().is_some_and(|e| e == "jnl") {
            let mut bytes = journal_bytes(&path);
            bytes.resize(bytes.len() + 8192, 0);
            fs::write(target, bytes).unwrap();
        } else if let Err(error) = fs::copy(&path, target) {
            let is_gone = error.kind() == io::ErrorKind::NotFound && !path.exists();
            assert!(is_gone, "{}: {error}", path.display());
        }
    }
}

/// Lets the keyspace that is made in the background be done.
async fn settle() {
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let root = fast_directory();
    conformance::check_buffer_stores(&|| Arc::new(FjallBufferStores::new(root.path()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_with_a_new_database_every_few_generations() {
    for max in [1, 2] {
        let root = fast_directory();
        let stores =
            || -> Arc<dyn BufferStores> { Arc::new(FjallBufferStores::new(root.path()).of(max)) };
        conformance::check_buffer_stores(&stores).await;
    }
}

/// Files below `root` that this process has open. Those that are deleted still take space.
#[cfg(target_os = "linux")]
fn open_files(root: &Path) -> Vec<PathBuf> {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap();
    let files = descriptors.filter_map(|it| fs::read_link(it.ok()?.path()).ok());
    files.filter(|file| file.starts_with(root)).collect()
}

/// A generation that was spilled, read and dropped is off the disk, not only out of its directory,
/// and nothing stays open for it.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn the_space_of_a_dropped_generation_is_free() {
    let root = fast_directory();
    let store = open(root.path()).await.unwrap().store;
    let opened = open_files(root.path());
    for lsn in 1..=20 {
        store.commit(batch(lsn, 128 << 10)).await.unwrap();
        let (sealed, handle) = store.seal().await.unwrap();
        store.spill(sealed).await.unwrap();
        let read = handle.read(name(lsn), 0..128 << 10).unwrap();
        assert_eq!(read, content(lsn, 128 << 10));
        store.drop_generation(sealed).await.unwrap();
        // Whoever still reads may go on.
        assert_eq!(handle.read(name(lsn), 0..128 << 10).unwrap(), read);
    }
    settle().await;
    let left = open_files(root.path());
    let is_deleted = |file: &&PathBuf| file.to_string_lossy().ends_with(" (deleted)");
    assert_eq!(left.iter().find(is_deleted), None);
    assert!(left.len() <= opened.len() + 2, "{left:?}");
}
