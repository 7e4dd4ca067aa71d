//! The folder against the suite, restarts, crashes and hostile keys.

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
