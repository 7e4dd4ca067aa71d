//! What clients see of a running server.

use mvps_core::client::ClientError;
use mvps_core::nbd::Errno;

use crate::harness::{MIB, Site};

#[tokio::test]
async fn every_connection_sees_what_was_acknowledged() {
    let site = Site::new();
    let server = site.serve("buffer", &[]);
    let token = site.token(&["--image", "disk0", "--size", "64MiB"]);
    let (one, other) = (server.attach(&token).await, server.attach(&token).await);
    assert_eq!(one.export().size_bytes, 64 * MIB);
    one.write(5000, vec![7; 10_000].into(), false)
        .await
        .unwrap();
    assert_eq!(other.read(5000, 10_000).await.unwrap(), vec![7; 10_000]);
    other.write_zeroes(6000, 100, false).await.unwrap();
    let edge = one.read(5999, 102).await.unwrap();
    assert_eq!((edge[0], edge[1], edge[100], edge[101]), (7, 0, 0, 7));
    one.trim(0, 65536, false).await.unwrap();
    one.flush().await.unwrap();
    let last = 64 * MIB - 1;
    assert_eq!(other.read(last, 1).await.unwrap(), vec![0]);
    server.stop();
}

#[tokio::test]
async fn transactions_are_whole_and_conflict_by_page() {
    let site = Site::new();
    let server = site.serve("buffer", &[]);
    let token = site.token(&["--image", "disk0", "--size", "64MiB"]);
    let (mut one, mut other) = (server.attach(&token).await, server.attach(&token).await);
    let watcher = server.attach(&token).await;
    let first = one.begin().await.unwrap();
    first.read(0, 4096).await.unwrap();
    first.write(8192, vec![1; 4096].into()).await.unwrap();
    assert_eq!(watcher.read(8192, 1).await.unwrap(), vec![0]);
    let second = other.begin().await.unwrap();
    second.write(0, vec![2; 4096].into()).await.unwrap();
    second.commit(false).await.unwrap();
    let lost = first.commit(false).await;
    assert_eq!(lost, Err(ClientError::Conflict));
    assert_eq!(watcher.read(8192, 1).await.unwrap(), vec![0]);
    let third = one.begin().await.unwrap();
    third.lock().await.unwrap();
    third.write(0, vec![3; 4096].into()).await.unwrap();
    third.delete_page(8192).await.unwrap();
    third.commit(true).await.unwrap();
    assert_eq!(watcher.read(0, 1).await.unwrap(), vec![3]);
    let dropped = one.begin().await.unwrap();
    dropped.write(0, vec![4; 4096].into()).await.unwrap();
    dropped.roll_back().await.unwrap();
    assert_eq!(watcher.read(0, 1).await.unwrap(), vec![3]);
    server.stop();
}

#[tokio::test]
async fn tokens_decide_what_a_client_may() {
    let site = Site::new();
    let server = site.serve("buffer", &[]);
    let absent = site.token(&["--image", "disk0"]);
    let refused = server.try_attach(&absent).await;
    assert!(
        matches!(refused, Err(ClientError::Refused(_))),
        "{refused:?}"
    );
    let token = site.token(&["--image", "disk0", "--size", "64MiB"]);
    server
        .attach(&token)
        .await
        .write(0, vec![1; 10].into(), true)
        .await
        .unwrap();
    let read_only = site.token(&["--image", "disk0", "--read-only"]);
    let reader = server.attach(&read_only).await;
    assert_eq!(reader.read(0, 10).await.unwrap(), vec![1; 10]);
    let written = reader.write(0, vec![2; 10].into(), false).await;
    assert_eq!(written, Err(ClientError::Failed(Errno::Permission)));
    let grown = site.token(&["--image", "disk0", "--size", "128MiB"]);
    assert_eq!(server.attach(&grown).await.export().size_bytes, 128 * MIB);
    assert_eq!(server.attach(&token).await.export().size_bytes, 128 * MIB);
    for wrong in ["", "disk0", &token[..token.len() - 2]] {
        let refused = server.try_attach(wrong).await;
        assert!(
            matches!(refused, Err(ClientError::Refused(_))),
            "{wrong}: {refused:?}"
        );
    }
    assert!(!server.log().contains(&token), "tokens are never logged");
    server.stop();
}

#[tokio::test]
async fn a_second_connection_of_a_client_ends_the_first() {
    let site = Site::new();
    let server = site.serve("buffer", &[]);
    let arguments = ["--image", "disk0", "--size", "64MiB", "--client-id", "me"];
    let token = site.token(&arguments);
    let first = server.attach(&token).await;
    first.write(0, vec![1; 10].into(), false).await.unwrap();
    let second = server.attach(&token).await;
    assert_eq!(second.read(0, 10).await.unwrap(), vec![1; 10]);
    let late = first.write(0, vec![2; 10].into(), false).await;
    assert!(late.is_err(), "the first connection still writes");
    assert_eq!(second.read(0, 10).await.unwrap(), vec![1; 10]);
    server.stop();
}

#[tokio::test]
async fn an_operator_sees_and_checkpoints() {
    let site = Site::new();
    let server = site.serve("buffer", &["--checkpoint-interval-ms", "3600000"]);
    let token = site.token(&["--image", "disk0", "--size", "64MiB"]);
    let client = server.attach(&token).await;
    client
        .write(0, vec![1; 100_000].into(), false)
        .await
        .unwrap();
    site.run_well("buffer", &["checkpoint", "disk0"]);
    let status = site.run_well("buffer", &["status", "--output", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert!(status.to_string().contains("disk0"), "{status}");
    let listed = site.run_well("buffer", &["image", "list"]);
    assert!(listed.contains("disk0"), "{listed}");
    let shown = site.run_well("buffer", &["image", "show", "disk0"]);
    assert!(shown.contains("disk0"), "{shown}");
    let wrong = site.run("buffer", &["checkpoint", "disk1"]);
    assert!(!wrong.status.success());
    server.stop();
}
