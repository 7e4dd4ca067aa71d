//! What is left after the end of a process, and after the loss of a buffer store.

use crate::harness::{MIB, Site};

/// No checkpoint happens by itself.
const NEVER: &[&str] = &["--checkpoint-interval-ms", "3600000"];

#[tokio::test]
async fn a_killed_server_comes_back_with_everything_acknowledged() {
    let site = Site::new();
    let token = site.token(&["--image", "disk0", "--size", "64MiB"]);
    for round in 0..4_u8 {
        let server = site.serve("buffer", NEVER);
        let client = server.attach(&token).await;
        for page in 0..round {
            let offset = u64::from(page) * MIB;
            assert_eq!(
                client.read(offset, 8192).await.unwrap(),
                vec![page + 1; 8192]
            );
        }
        let offset = u64::from(round) * MIB;
        client
            .write(offset, vec![round + 1; 8192].into(), false)
            .await
            .unwrap();
        if round == 1 {
            site.run_well("buffer", &["checkpoint", "disk0"]);
        }
        server.kill();
    }
}

#[tokio::test]
async fn an_open_transaction_dies_with_the_server() {
    let site = Site::new();
    let token = site.token(&["--image", "disk0", "--size", "64MiB"]);
    let server = site.serve("buffer", NEVER);
    let mut client = server.attach(&token).await;
    let transaction = client.begin().await.unwrap();
    transaction.write(0, vec![1; 8192].into()).await.unwrap();
    server.kill();
    drop(transaction);
    let server = site.serve("buffer", NEVER);
    let client = server.attach(&token).await;
    assert_eq!(client.read(0, 8192).await.unwrap(), vec![0; 8192]);
    server.stop();
}

#[tokio::test]
async fn after_a_clean_end_any_empty_buffer_will_do() {
    let site = Site::new();
    let token = site.token(&["--image", "disk0", "--size", "64MiB"]);
    let server = site.serve("buffer", NEVER);
    let client = server.attach(&token).await;
    client
        .write(MIB, vec![5; 300_000].into(), false)
        .await
        .unwrap();
    client.disconnect().await;
    server.stop();
    let server = site.serve("another", NEVER);
    let client = server.attach(&token).await;
    assert_eq!(client.read(MIB, 300_000).await.unwrap(), vec![5; 300_000]);
    server.stop();
}

#[tokio::test]
async fn durable_in_the_object_store_survives_the_machine() {
    let site = Site::new();
    let arguments = [
        "--image",
        "disk0",
        "--size",
        "64MiB",
        "--durability",
        "object-store",
    ];
    let token = site.token(&arguments);
    let server = site.serve("buffer", NEVER);
    let client = server.attach(&token).await;
    client.write(0, vec![1; 8192].into(), false).await.unwrap();
    client.flush().await.unwrap();
    client
        .write(8192, vec![2; 8192].into(), true)
        .await
        .unwrap();
    server.kill();
    site.run_well("another", &["image", "takeover", "disk0"]);
    let server = site.serve("another", NEVER);
    let client = server.attach(&token).await;
    assert_eq!(client.read(0, 8192).await.unwrap(), vec![1; 8192]);
    assert_eq!(client.read(8192, 8192).await.unwrap(), vec![2; 8192]);
    server.stop();
}
