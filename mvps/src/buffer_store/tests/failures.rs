//! Failing syncs, dead workers, full disks, journals that have to shrink.

use super::super::errors::Failure;
use super::*;

async fn open_parts(root: &Path) -> (FjallBufferStore, Vec<Arc<dyn mvps_core::env::BufferHandle>>) {
    let layout = FjallBufferStores::new(root).layout(&image());
    let opened = {
        let layout = layout.clone();
        tokio::task::spawn_blocking(move || {
            open_or_create(&layout, Seed::of(&image()), &Weak::new())
        })
        .await
    };
    let (database, mut journals, found) = opened.unwrap().unwrap();
    journals.failures = 1;
    let handles = found.generations.into_iter().map(|g| g.stored as Arc<_>);
    let handles = handles.collect();
    (FjallBufferStore::new(layout, database, journals), handles)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_poisons_and_the_next_opening_writes_anew() {
    use mvps_core::env::BufferStore;
    let root = fast_directory();
    let database = root.path().join("disk/fjall");
    let (store, handles) = open_parts(root.path()).await;
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
    fs::write(database.join("witness"), b"").unwrap();
    let recovered = open(root.path()).await.unwrap();
    assert_eq!(verified_lsns(&recovered), [1, 2, 3]);
    assert!(
        !database.join("witness").exists(),
        "the database is a new one"
    );
    assert!(!root.path().join("disk/sync-failed").exists());
    recovered.store.commit(batch(4, 4096)).await.unwrap();
    recovered.store.sync().await.unwrap();
    drop(recovered);
    assert_eq!(
        verified_lsns(&open(root.path()).await.unwrap()),
        [1, 2, 3, 4]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_anew_keeps_generations_and_metadata() {
    let root = fast_directory();
    let opened = open(root.path()).await.unwrap();
    let store = &opened.store;
    let mut numbers = Vec::new();
    for lsn in 1..=4 {
        store.commit(batch(lsn, 4096)).await.unwrap();
        if lsn < 4 {
            numbers.push(store.seal().await.unwrap().0);
        }
    }
    store.drop_generation(numbers.remove(1)).await.unwrap();
    store
        .put_metadata(Bytes::from_static(b"mine"))
        .await
        .unwrap();
    drop(opened);
    for interrupted in [false, true] {
        fs::write(root.path().join("disk/sync-failed"), b"").unwrap();
        if interrupted {
            // An earlier attempt that did not come to its end.
            fs::create_dir_all(root.path().join("disk/rewritten/keyspaces")).unwrap();
        }
        let opened = open(root.path()).await.unwrap();
        let found: Vec<_> = opened.generations.iter().map(|g| g.generation).collect();
        assert_eq!(found[..2], numbers);
        assert_eq!(verified_lsns(&opened), [1, 3, 4]);
        assert_eq!(opened.metadata.as_deref(), Some(&b"mine"[..]));
    }
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
