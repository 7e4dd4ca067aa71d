//! The folder against the suite, restarts, crashes and hostile keys.

use std::os::unix::fs::MetadataExt as _;

use super::*;
use mvps_core::env::conformance::check_object_store;

#[tokio::test]
async fn conforms() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalObjectStore::open(&folder.path().join("made/on/demand")).unwrap();
    check_object_store(&store, "suite/").await;
}

#[tokio::test]
async fn uploads_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalObjectStore::open(folder.path()).unwrap();
    let upload = store.start_upload("k").await.unwrap();
    let tag = store
        .upload_part("k", &upload, 1, Bytes::from_static(b"part"))
        .await
        .unwrap();
    drop(store);
    let store = LocalObjectStore::open(folder.path()).unwrap();
    assert_eq!(store.list_uploads("").await.unwrap().len(), 1);
    assert_eq!(
        store.list("", None, 10).await,
        Ok(vec![]),
        "uploads are hidden"
    );
    assert_eq!(store.list_folders("").await, Ok(vec![]));
    assert_eq!(store.complete_upload("k", &upload, &[tag]).await, Ok(()));
    let got = store.get("k", GetRange::Whole).await;
    assert_eq!(got.map(ObjectBody::joined), Ok(Bytes::from_static(b"part")));
    assert!(
        !folder.path().join(UPLOADS).exists(),
        "nothing is left of it"
    );
}

#[tokio::test]
async fn keys_that_leave_the_store_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalObjectStore::open(folder.path()).unwrap();
    for key in [
        "",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/../b",
        ".uploads/a/key",
        "a#1",
    ] {
        let put = store.put(key, Bytes::from_static(b"x")).await;
        assert!(put.is_err(), "{key:?} was accepted");
    }
    let forged = UploadId("../../etc".to_owned());
    assert!(
        store
            .upload_part("k", &forged, 1, Bytes::new())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn leftovers_of_a_crash_are_not_objects() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalObjectStore::open(folder.path()).unwrap();
    std::fs::create_dir(folder.path().join("images")).unwrap();
    std::fs::write(folder.path().join("images/object#1"), b"half").unwrap();
    assert_eq!(store.list("", None, 10).await, Ok(vec![]));
    assert_eq!(store.list_folders("").await, Ok(vec![]));
    assert_eq!(
        store
            .create("images/object", Bytes::from_static(b"whole"))
            .await,
        Ok(())
    );
    assert_eq!(store.list_folders("").await, Ok(vec!["images/".to_owned()]));
}

const PART_BYTES: usize = 5 * 1024 * 1024;

/// Bytes that differ from place to place and from `seed` to `seed`.
fn bytes(length: usize, seed: u8) -> Bytes {
    (0..length).map(|at| (at / 4096) as u8 ^ seed).collect()
}

/// An upload of `k` with these parts, in the order in which they come.
async fn uploaded(
    store: &LocalObjectStore,
    parts: &[(u32, Bytes)],
) -> (UploadId, UploadFolder, Vec<PartTag>) {
    let upload = store.start_upload("k").await.unwrap();
    let mut tags = Vec::new();
    for (number, body) in parts {
        let part = store.upload_part("k", &upload, *number, body.clone());
        tags.push((*number, part.await.unwrap()));
    }
    tags.sort_by_key(|(number, _)| *number);
    let folder = store.upload_folder(&upload);
    (
        upload,
        folder,
        tags.into_iter().map(|(_, tag)| tag).collect(),
    )
}

async fn content(store: &LocalObjectStore) -> Bytes {
    let got = store.get("k", GetRange::Whole).await;
    got.unwrap().joined()
}

#[tokio::test]
async fn an_object_is_the_file_that_its_parts_were_written_to() {
    let place = tempfile::tempdir().unwrap();
    let store = LocalObjectStore::open(place.path()).unwrap();
    let parts = [
        (3, bytes(77, 3)),
        (1, bytes(PART_BYTES, 1)),
        (2, bytes(PART_BYTES, 2)),
    ];
    let whole = [&parts[1].1[..], &parts[2].1, &parts[0].1].concat();
    let (upload, folder, tags) = uploaded(&store, &parts).await;
    let inode = |path: &FilePath| std::fs::metadata(path).map(|file| file.ino()).unwrap();
    let written = inode(&folder.path.join(format!("content-{PART_BYTES}")));
    assert_eq!(store.complete_upload("k", &upload, &tags).await, Ok(()));
    assert_eq!(inode(&place.path().join("k")), written);
    assert!(content(&store).await == whole);
    assert!(!folder.path.exists(), "nothing is left of it");
}

#[tokio::test]
async fn parts_come_in_any_order_and_size() {
    let place = tempfile::tempdir().unwrap();
    let store = LocalObjectStore::open(place.path()).unwrap();
    let long = PART_BYTES + 4096;
    for (first, last) in [(long, PART_BYTES), (PART_BYTES, long), (long, 1), (long, 0)] {
        for order in [[1, 2, 3], [3, 2, 1], [3, 1, 2], [2, 3, 1]] {
            let body = |number| bytes(if number == 3 { last } else { first }, number as u8);
            let parts = order.map(|number| (number, body(number)));
            let (upload, _, tags) = uploaded(&store, &parts).await;
            let completed = store.complete_upload("k", &upload, &tags).await;
            assert_eq!(completed, Ok(()), "{first}, {last}, {order:?}");
            let whole = [body(1), body(2), body(3)].concat();
            assert!(content(&store).await == whole, "{first}, {last}, {order:?}");
        }
    }
    let parts = [
        (1, bytes(PART_BYTES, 1)),
        (2, bytes(long, 2)),
        (3, bytes(1, 3)),
    ];
    let (upload, _, tags) = uploaded(&store, &parts).await;
    let uneven = store.complete_upload("k", &upload, &tags).await;
    assert!(
        matches!(uneven, Err(StoreError::Invalid { .. })),
        "{uneven:?}"
    );
}

#[tokio::test]
async fn an_upload_can_be_completed_again_and_not_changed() {
    let place = tempfile::tempdir().unwrap();
    let store = LocalObjectStore::open(place.path()).unwrap();
    let parts = [(1, bytes(PART_BYTES, 1)), (2, bytes(9, 2))];
    let (upload, folder, tags) = uploaded(&store, &parts).await;
    let object = place.path().join("k");
    // As if the process had ended before it forgot the upload.
    folder.complete(&tags, &object).unwrap();
    let whole = content(&store).await;
    let late = store.upload_part("k", &upload, 2, bytes(9, 3)).await;
    assert!(matches!(late, Err(StoreError::NotFound { .. })), "{late:?}");
    let other = folder.complete(&tags[..1], &object).unwrap_err();
    assert_eq!(other.kind(), io::ErrorKind::InvalidInput);
    assert!(content(&store).await == whole);
    assert_eq!(store.complete_upload("k", &upload, &tags).await, Ok(()));
    assert!(content(&store).await == whole);
    let gone = store.complete_upload("k", &upload, &tags).await;
    assert!(matches!(gone, Err(StoreError::NotFound { .. })), "{gone:?}");
    assert!(
        !place.path().join(UPLOADS).exists(),
        "nothing is left of it"
    );
}

#[tokio::test]
async fn two_complete_an_upload_at_once() {
    let place = tempfile::tempdir().unwrap();
    let store = LocalObjectStore::open(place.path()).unwrap();
    for round in 0..8 {
        let parts = [(1, bytes(PART_BYTES, round)), (2, bytes(9, round))];
        let (upload, _, tags) = uploaded(&store, &parts).await;
        let complete = || store.complete_upload("k", &upload, &tags);
        let (left, right) = futures_util::join!(complete(), complete());
        let ended = |outcome: &Result<(), StoreError>| {
            matches!(outcome, Ok(()) | Err(StoreError::NotFound { .. }))
        };
        assert!(left.is_ok() || right.is_ok(), "{left:?}, {right:?}");
        assert!(ended(&left) && ended(&right), "{left:?}, {right:?}");
        assert!(content(&store).await == [&parts[0].1[..], &parts[1].1].concat());
    }
}
