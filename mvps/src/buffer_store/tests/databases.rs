//! A store of several databases: one follows another, and goes with its last generation.

use mvps_core::env::BufferStore;
use mvps_core::ids::Generation;

use super::super::files::journals;
use super::*;

/// The databases of the store in `root` that have a directory.
pub fn databases(root: &Path) -> Vec<u64> {
    let layout = FjallBufferStores::new(root).layout(&image());
    let found = layout.databases().unwrap();
    found.into_iter().map(|number| number.0).collect()
}

/// Opens the store with databases of two generations each.
pub async fn open_of_two(root: &Path) -> Result<Recovered, BufferError> {
    FjallBufferStores::new(root).of(2).open(&image()).await
}

/// Commits `lsn` and seals.
pub async fn commit_and_seal(store: &Arc<dyn BufferStore>, lsn: u64) -> Generation {
    store.commit(batch(lsn, 4096)).await.unwrap();
    store.seal().await.unwrap().0
}

pub fn bytes_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap();
    let bytes = entries.map(|entry| {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        match metadata.is_dir() {
            true => bytes_below(&entry.path()),
            // Journals are made long and left empty.
            false => metadata
                .len()
                .min(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512),
        }
    });
    bytes.sum()
}

async fn seal_and_drop(store: &Arc<dyn BufferStore>, lsns: std::ops::Range<u64>) {
    for lsn in lsns {
        let sealed = commit_and_seal(store, lsn).await;
        if lsn % 8 == 0 {
            store.spill(sealed).await.unwrap();
        }
        store.drop_generation(sealed).await.unwrap();
    }
}

/// Without new databases, 400 generations take 170 MB.
#[tokio::test(flavor = "multi_thread")]
async fn the_disk_used_does_not_grow_with_the_generations_made() {
    let root = fast_directory();
    // Without a handle to a generation, which would keep its database.
    let store = open(root.path()).await.unwrap().store;
    let mut most = 0;
    for round in 0..8 {
        seal_and_drop(&store, round * 50 + 1..round * 50 + 51).await;
        most = most.max(bytes_below(root.path()));
    }
    assert!(most < 40 << 20, "{most} bytes with nothing buffered");
    let there = databases(root.path());
    assert!(there.iter().all(|number| *number >= 3), "{there:?}");
    store.commit(batch(1000, 4096)).await.unwrap();
    drop(store);
    let recovered = open(root.path()).await.unwrap();
    assert_eq!(verified_lsns(&recovered), [1000]);
    assert_eq!(recovered.generations[0].generation, Generation(401));
}

/// Openings do not begin the count anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_takes_as_many_generations_however_often_it_is_opened() {
    let root = fast_directory();
    for lsn in 1..=6 {
        let stores = FjallBufferStores::new(root.path()).of(4);
        let store = stores.open(&image()).await.unwrap().store;
        seal_and_drop(&store, lsn..lsn + 1).await;
        settle().await;
        let active = databases(root.path()).len();
        // The fourth generation is active, and the next database was made in advance.
        let expected = if lsn == 3 { 2 } else { 1 };
        assert_eq!(active, expected, "after {lsn} generations");
    }
    assert_eq!(databases(root.path()), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_found_again_over_several_databases() {
    let root = fast_directory();
    let opened = open_of_two(root.path()).await.unwrap();
    let store = &opened.store;
    let put = store.put_metadata(Bytes::from_static(b"mine"));
    put.await.unwrap();
    let mut sealed = Vec::new();
    for lsn in 1..=7 {
        sealed.push(commit_and_seal(store, lsn).await);
    }
    store.commit(batch(8, 4096)).await.unwrap();
    store.spill(sealed[0]).await.unwrap();
    store.drop_generation(sealed[1]).await.unwrap();
    // The third database goes as a whole; those before it stay.
    store.drop_generation(sealed[5]).await.unwrap();
    store.drop_generation(sealed[4]).await.unwrap();
    // In the background.
    settle().await;
    assert_eq!(databases(root.path())[..3], [0, 1, 3]);
    let usage = store.usage().disk_bytes;
    assert!(usage > 6 * 4096, "{usage} bytes for six records");
    drop(opened);
    for max in [2, GENERATIONS_MAX] {
        let stores = FjallBufferStores::new(root.path()).of(max);
        let recovered = stores.open(&image()).await.unwrap();
        assert_eq!(verified_lsns(&recovered), [1, 3, 4, 7, 8]);
        assert_eq!(recovered.last_lsn, Lsn(8));
        assert_eq!(recovered.metadata.as_deref(), Some(&b"mine"[..]));
        let numbers: Vec<_> = recovered
            .generations
            .iter()
            .map(|g| g.generation.0)
            .collect();
        assert_eq!(numbers, [1, 3, 4, 7, 8]);
    }
    // Opening removes what was made in advance, and makes it again only if it is due.
    assert_eq!(databases(root.path()), [0, 1, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_generation_is_read_although_its_database_is_gone() {
    let root = fast_directory();
    let opened = open_of_two(root.path()).await.unwrap();
    let store = &opened.store;
    let mut held = Vec::new();
    for lsn in 1..=3 {
        store.commit(batch(lsn, 128 << 10)).await.unwrap();
        let (sealed, handle) = store.seal().await.unwrap();
        // One from tables, one from memory.
        if lsn == 1 {
            store.spill(sealed).await.unwrap();
        }
        held.push((sealed, handle));
    }
    let handles = held;
    drop(opened.generations);
    for (sealed, _) in &handles[..2] {
        store.drop_generation(*sealed).await.unwrap();
    }
    let read = |at: usize| handles[at].1.read(name(at as u64 + 1), 0..128 << 10);
    for at in 0..2 {
        assert_eq!(read(at).unwrap(), content(at as u64 + 1, 128 << 10));
    }
    assert_eq!(databases(root.path())[0], 0, "while it is read it is there");
    // Also after the store is closed; and the next one waits for its end.
    drop(opened.store);
    assert_eq!(read(0).unwrap(), content(1, 128 << 10));
    let refused = open_of_two(root.path()).await.err();
    assert!(
        matches!(refused, Some(BufferError::Locked { .. })),
        "{refused:?}"
    );
    drop(handles);
    let recovered = open_of_two(root.path()).await.unwrap();
    assert_eq!(databases(root.path())[0], 1);
    assert_eq!(verified_lsns(&recovered), [3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_goes_with_the_last_reader() {
    let root = fast_directory();
    let opened = open_of_two(root.path()).await.unwrap();
    let store = &opened.store;
    let first = commit_and_seal(store, 1).await;
    store.commit(batch(2, 4096)).await.unwrap();
    let (second, handle) = store.seal().await.unwrap();
    drop(opened.generations);
    store.drop_generation(second).await.unwrap();
    store.drop_generation(first).await.unwrap();
    assert_eq!(databases(root.path())[0], 0);
    let left = journals(&root.path().join("disk/fjall")).unwrap();
    assert_eq!(left, [], "nobody reads journals");
    drop(handle);
    settle().await;
    assert_eq!(databases(root.path())[0], 1);
    #[cfg(target_os = "linux")]
    assert!(open_files(root.path()).iter().all(|file| {
        let file = file.to_string_lossy();
        !file.contains("/fjall/") && !file.ends_with("(deleted)")
    }));
}

/// What earlier versions wrote: one database, of however many generations.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_has_too_many_generations_is_followed_by_another() {
    let root = fast_directory();
    let opened = open(root.path()).await.unwrap();
    for lsn in 1..=5 {
        let sealed = commit_and_seal(&opened.store, lsn).await;
        if lsn != 3 {
            opened.store.drop_generation(sealed).await.unwrap();
        }
    }
    drop(opened);
    assert_eq!(databases(root.path()), [0]);
    let opened = open_of_two(root.path()).await.unwrap();
    assert_eq!(verified_lsns(&opened), [3]);
    commit_and_seal(&opened.store, 6).await;
    opened.store.commit(batch(7, 4096)).await.unwrap();
    settle().await;
    drop(opened);
    assert_eq!(databases(root.path()), [0, 1]);
    let recovered = open_of_two(root.path()).await.unwrap();
    assert_eq!(verified_lsns(&recovered), [3, 6, 7]);
}

/// A sync that began while another database was active has done what it promised.
#[tokio::test(flavor = "multi_thread")]
async fn syncs_commits_and_switches_at_the_same_time() {
    let root = fast_directory();
    let opened = FjallBufferStores::new(root.path())
        .of(1)
        .open(&image())
        .await
        .unwrap();
    let store = &opened.store;
    let syncing = {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            for _ in 0..200 {
                store.sync().await.unwrap();
                store
                    .put_metadata(Bytes::from_static(b"mine"))
                    .await
                    .unwrap();
            }
        })
    };
    let mut dropping = Vec::new();
    for lsn in 1..=40 {
        let sealed = commit_and_seal(store, lsn).await;
        let store = Arc::clone(store);
        dropping.push(tokio::spawn(async move {
            if lsn % 3 == 0 {
                store.spill(sealed).await.unwrap();
            }
            if lsn % 5 != 0 {
                store.drop_generation(sealed).await.unwrap();
            }
        }));
    }
    syncing.await.unwrap();
    for drop in dropping {
        drop.await.unwrap();
    }
    drop(opened);
    let recovered = open(root.path()).await.unwrap();
    assert_eq!(verified_lsns(&recovered), [5, 10, 15, 20, 25, 30, 35, 40]);
    assert_eq!(recovered.metadata.as_deref(), Some(&b"mine"[..]));
}

/// Cuts the last journal of a database.
pub fn cut_journal(database: &Path, bytes: u64) {
    let (_, last) = journals(database).unwrap().pop().unwrap();
    let file = fs::OpenOptions::new().write(true).open(last).unwrap();
    file.set_len(bytes).unwrap();
}
