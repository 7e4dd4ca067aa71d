//! One image, several servers: who may serve it, and how an operator decides.

use std::time::{Duration, Instant};

use mvps_core::client::ClientError;
use mvps_core::nbd::Errno;

use crate::harness::{Server, Site};

/// No checkpoint happens by itself.
const NEVER: &[&str] = &["--checkpoint-interval-ms", "3600000"];

/// A fenced server learns of it within 10 s of use; the rest is for a busy machine.
const FENCED_LIMIT: Duration = Duration::from_secs(40);

async fn refusal(server: &Server, token: &str) -> String {
    match server.try_attach(token).await {
        Err(ClientError::Refused(refusal)) => refusal.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_lost_buffer_is_never_silent() {
    let site = Site::new();
    let token = site.token(&["--image", "disk0", "--size", "64MiB"]);
    let server = site.serve("buffer", NEVER);
    let client = server.attach(&token).await;
    client.write(0, vec![1; 4096].into(), false).await.unwrap();
    site.run_well("buffer", &["checkpoint", "disk0"]);
    client.write(0, vec![2; 4096].into(), true).await.unwrap();
    server.kill();
    let server = site.serve("another", NEVER);
    refusal(&server, &token).await;
    let log = server.log();
    assert!(log.contains("mvps image takeover disk0"), "{log}");
    site.run_well("another", &["image", "takeover", "disk0"]);
    let client = server.attach(&token).await;
    assert_eq!(client.read(0, 4096).await.unwrap(), vec![1; 4096]);
    let shown = site.run_well("another", &["image", "show", "disk0"]);
    assert!(shown.to_lowercase().contains("takeover"), "{shown}");
    server.stop();
    let server = site.serve("buffer", NEVER);
    refusal(&server, &token).await;
    server.stop();
}

#[tokio::test]
async fn a_fenced_server_stops_and_cannot_come_back() {
    let site = Site::new();
    let token = site.token(&["--image", "disk0", "--size", "64MiB"]);
    let (first, second) = (site.serve("first", NEVER), site.serve("second", NEVER));
    let old = first.attach(&token).await;
    old.write(0, vec![1; 4096].into(), true).await.unwrap();
    site.run_well("first", &["checkpoint", "disk0"]);
    refusal(&second, &token).await;
    site.run_well("second", &["image", "takeover", "disk0"]);
    let new = second.attach(&token).await;
    let began = Instant::now();
    let ended = loop {
        match old.write(4096, vec![2; 4096].into(), true).await {
            Ok(()) => assert!(began.elapsed() < FENCED_LIMIT, "not fenced"),
            Err(error) => break error,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(ended, ClientError::Failed(Errno::Shutdown));
    assert_eq!(old.flush().await, Err(ClientError::Failed(Errno::Shutdown)));
    assert_eq!(new.read(0, 4096).await.unwrap(), vec![1; 4096]);
    assert_eq!(new.read(4096, 4096).await.unwrap(), vec![0; 4096]);
    new.write(0, vec![3; 4096].into(), true).await.unwrap();
    first.kill();
    let first = site.serve("first", NEVER);
    refusal(&first, &token).await;
    assert_eq!(new.read(0, 4096).await.unwrap(), vec![3; 4096]);
    second.stop();
}

#[test]
fn two_servers_never_share_a_buffer_store() {
    let site = Site::new();
    let server = site.serve("buffer", NEVER);
    let output = site
        .mvps("buffer", &["serve", "--listen"])
        .arg(format!("unix:{}", site.path("other.sock").display()))
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(said.contains("buffer"), "{said}");
    server.stop();
}
