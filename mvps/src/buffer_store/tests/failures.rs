//! Failing syncs, dead workers, full disks, journals that have to shrink.

use super::super::errors::Failure;
use super::databases::databases;
use super::*;

/// A store whose next sync fails, and handles to its generations.
async fn open_failing(
    root: &Path,
    generations_max: u64,
) -> (FjallBufferStore, Vec<Arc<dyn mvps_core::env::BufferHandle>>) {
    let layout = FjallBufferStores::new(root).layout(&image());
    let seed = Seed::of(&image());
    let opened = {
        let layout = layout.clone();
        let open = move || open_or_create(&layout, seed, &Weak::new(), generations_max);
        tokio::task::spawn_blocking(open).await
    };
    let Opened {
        databases,
        mut journals,
        found,
    } = opened.unwrap().unwrap();
    let active = databases.active().database().number();
    journals.of(active).unwrap().failures = 1;
    let handles = found.generations.into_iter().map(|g| g.stored as Arc<_>);
    let handles = handles.collect();
    let store = FjallBufferStore::new(layout, seed, databases, journals);
    (store, handles)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_poisons_and_the_next_opening_writes_anew() {
    use mvps_core::env::BufferStore;
    let root = fast_directory();
    let database = root.path().join("disk/fjall");
    let (store, handles) = open_failing(root.path(), GENERATIONS_MAX).await;
    settle().await;
    for lsn in 1..=3 {
        store.commit(batch(lsn, 65536)).await.unwrap();
    }
    for _ in 0..2 {
        let failed = store.sync().await;
        assert!(
            matches!(failed, Err(BufferError::Poisoned { .. })),
            "{failed:?}"
        );
    }
    let commit = store.commit(batch(4, 4096)).await;
    assert!(
        matches!(commit, Err(BufferError::Poisoned { .. })),
        "{commit:?}"
    );
    let put = store.put_metadata(Bytes::new()).await;
    assert!(matches!(put, Err(BufferError::Poisoned { .. })), "{put:?}");
    assert_eq!(
        handles[0].read(name(2), 0..65536).unwrap(),
        content(2, 65536)
    );
    drop((store, handles));

    assert!(root.path().join("disk/sync-failed").exists());
    let recovered = open(root.path()).await.unwrap();
    assert_eq!(verified_lsns(&recovered), [1, 2, 3]);
    assert!(!database.exists(), "the database is a new one");
    assert!(!root.path().join("disk/sync-failed").exists());
    recovered.store.commit(batch(4, 4096)).await.unwrap();
    recovered.store.sync().await.unwrap();
    drop(recovered);
    assert_eq!(
        verified_lsns(&open(root.path()).await.unwrap()),
        [1, 2, 3, 4]
    );
}

/// Syncs that a rotation and a switch do under the gate count like any other.
#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_within_another_call_is_noted_too() {
    use mvps_core::env::BufferStore;
    for spills in [false, true] {
        let root = fast_directory();
        let opened = open(root.path()).await.unwrap();
        opened.store.commit(batch(1, 65536)).await.unwrap();
        let (sealed, _) = opened.store.seal().await.unwrap();
        drop(opened);
        // Everything is synced, so the sync that fails is one of what the call itself wrote.
        let (store, _) = open_failing(root.path(), 1).await;
        let failed = if spills {
            store.spill(sealed).await
        } else {
            store.commit(batch(2, 4096)).await.unwrap();
            store.seal().await.map(|_| ())
        };
        assert!(
            matches!(failed, Err(BufferError::Poisoned { .. })),
            "{failed:?}"
        );
        drop(store);
        assert!(root.path().join("disk/sync-failed").exists());
        let expected: &[u64] = if spills { &[1] } else { &[1, 2] };
        assert_eq!(verified_lsns(&open(root.path()).await.unwrap()), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_anew_keeps_generations_and_metadata() {
    for max in [1, 2, GENERATIONS_MAX] {
        let root = fast_directory();
        let stores = FjallBufferStores::new(root.path()).of(max);
        let opened = stores.open(&image()).await.unwrap();
        let store = &opened.store;
        let mut numbers = Vec::new();
        for lsn in 1..=4 {
            store.commit(batch(lsn, 4096)).await.unwrap();
            if lsn < 4 {
                numbers.push(store.seal().await.unwrap().0);
            }
        }
        store.drop_generation(numbers.remove(1)).await.unwrap();
        let metadata = Bytes::from_static(b"mine");
        store.put_metadata(metadata.clone()).await.unwrap();
        settle().await;
        drop(opened);
        for interrupted in [false, true] {
            fs::write(root.path().join("disk/sync-failed"), b"").unwrap();
            let mut before = databases(root.path());
            // One that was made in advance does not count.
            before.retain(|number| *number == 0 || counts(root.path(), *number));
            if interrupted {
                // Attempts that did not come to their ends: of now, and of an earlier version.
                let next = format!("disk/fjall-{}/keyspaces", before.len() + 7);
                fs::create_dir_all(root.path().join(next)).unwrap();
                fs::create_dir_all(root.path().join("disk/rewritten/keyspaces")).unwrap();
            }
            let opened = open(root.path()).await.unwrap();
            let found: Vec<_> = opened.generations.iter().map(|g| g.generation).collect();
            assert_eq!(found[..2], numbers);
            assert_eq!(verified_lsns(&opened), [1, 3, 4]);
            assert_eq!(opened.metadata.as_ref(), Some(&metadata));
            let after = databases(root.path());
            assert!(
                after.len() == 1 && !before.contains(&after[0]),
                "{before:?}, then {after:?}"
            );
        }
    }
}

fn counts(root: &Path, database: u64) -> bool {
    root.join(format!("disk/fjall-{database}/complete"))
        .exists()
}

/// Each attempt begins anew: it neither adds to what the last one left, nor says that what the disk may
/// lack is synced.
#[tokio::test(flavor = "multi_thread")]
async fn writing_anew_that_is_interrupted_leaves_no_more_than_one_copy() {
    let root = fast_directory();
    let opened = open(root.path()).await.unwrap();
    opened.store.commit(batch(1, 65536)).await.unwrap();
    opened.store.sync().await.unwrap();
    opened.store.commit(batch(2, 65536)).await.unwrap();
    settle().await;
    drop(opened);
    let disk = root.path().join("disk");
    let synced = fs::read(disk.join("fjall/synced")).unwrap();
    fs::write(disk.join("sync-failed"), b"").unwrap();
    // Where a file of fjall's is wanted there is a folder: the attempt fails behind the opening.
    fs::create_dir_all(disk.join("fjall-1/complete")).unwrap();
    for _ in 0..2 {
        assert!(open(root.path()).await.is_err());
        assert_eq!(fs::read(disk.join("fjall/synced")).unwrap(), synced);
    }
    fs::remove_dir(disk.join("fjall-1/complete")).unwrap();
    fs::write(disk.join("fjall-1/left"), b"behind").unwrap();
    let opened = open(root.path()).await.unwrap();
    assert_eq!(verified_lsns(&opened), [1, 2]);
    assert_eq!(databases(root.path()), [1]);
    assert!(!disk.join("fjall-1/left").exists());
}

/// Earlier versions removed the database, and then renamed the rewritten one.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_version_wrote_anew_is_put_in_place() {
    let root = fast_directory();
    let opened = open(root.path()).await.unwrap();
    opened.store.commit(batch(1, 4096)).await.unwrap();
    drop(opened);
    drop(open(root.path()).await.unwrap());
    let disk = root.path().join("disk");
    fs::write(disk.join("sync-failed"), b"").unwrap();
    copy_directory(&disk.join("fjall"), &disk.join("rewritten"));
    fs::write(disk.join("rewritten/complete"), b"").unwrap();
    fs::remove_file(disk.join("fjall/version")).unwrap();
    let recovered = open(root.path()).await.unwrap();
    assert_eq!(verified_lsns(&recovered), [1]);
    assert_eq!(databases(root.path()), [1]);
    assert!(!disk.join("sync-failed").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_making_was_interrupted_is_made_again() {
    let root = fast_directory();
    drop(open(root.path()).await.unwrap());
    fs::remove_file(root.path().join("disk/store")).unwrap();
    let found = open(root.path()).await.err();
    assert!(
        matches!(found, Some(BufferError::Corrupt { .. })),
        "in use before: {found:?}"
    );
    fs::remove_file(root.path().join("disk/fjall/synced")).unwrap();
    let found = open(root.path()).await.unwrap();
    assert_eq!(found.last_lsn, Lsn(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn journals_shrink_when_generations_are_dropped() {
    let root = tempfile::tempdir().unwrap();
    let opened = open(root.path()).await.unwrap();
    let store = &opened.store;
    let mut most = 0;
    for lsn in 1..=6 * 512_u64 {
        store.commit(batch(lsn, 128 * 1024)).await.unwrap();
        if lsn.is_multiple_of(512) {
            let (sealed, _) = store.seal().await.unwrap();
            store.drop_generation(sealed).await.unwrap();
            most = most.max(store.usage().disk_bytes);
            let files = files::journals(&root.path().join("disk/fjall")).unwrap();
            assert!(files.len() <= 3, "{files:?}");
        }
    }
    assert!(
        most < 160 << 20,
        "{most} bytes on the disk with nothing buffered"
    );
}

/// What it left half done nobody knows, so nobody goes on with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_within_the_store_poisons_it() {
    use mvps_core::env::BufferStore;
    let root = fast_directory();
    let (store, _handles) = open_failing(root.path(), GENERATIONS_MAX).await;
    settle().await;
    store.commit(batch(1, 4096)).await.unwrap();
    let panicked = store.panic_within().await;
    assert!(matches!(panicked, Err(BufferError::Poisoned { .. })));
    let commit = store.commit(batch(2, 4096)).await;
    assert!(
        matches!(commit, Err(BufferError::Poisoned { .. })),
        "{commit:?}"
    );
}

#[test]
fn errors_are_told_apart() {
    let check = |kind: io::ErrorKind, full: bool| {
        let error = fjall::Error::Io(io::Error::from(kind));
        let failure = errors::write_error(error);
        assert_eq!(matches!(failure, Failure::Full(_)), full, "{kind:?}");
    };
    check(io::ErrorKind::StorageFull, true);
    check(io::ErrorKind::QuotaExceeded, true);
    check(io::ErrorKind::Other, false);
    check(io::ErrorKind::PermissionDenied, false);
}
