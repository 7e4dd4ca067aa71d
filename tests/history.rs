//! Snapshots, clones, rollback, growth and deletion, with a server and without one.

use mvps_core::client::Client;

use crate::harness::{MIB, Site, texts};

/// No checkpoint happens by itself.
const NEVER: &[&str] = &["--checkpoint-interval-ms", "3600000"];

async fn write(client: &Client, page: u64, byte: u8) {
    let content = vec![byte; 4096].into();
    client
        .write(page * 4096, content, false)
        .await
        .expect("a write");
}

async fn read(client: &Client, page: u64) -> u8 {
    let content = client.read(page * 4096, 4096).await.expect("a read");
    assert!(content.iter().all(|byte| *byte == content[0]), "mixed");
    content[0]
}

/// Runs a command that must fail; returns what it said.
fn refused(site: &Site, buffer: &str, words: &[&str]) -> String {
    let output = site.run(buffer, words);
    let (stdout, stderr) = texts(&output);
    assert!(!output.status.success(), "{words:?}: {stdout}{stderr}");
    stderr
}

#[tokio::test]
async fn point_in_time_on_a_running_server() {
    let site = Site::new();
    let token = site.token(&["--image", "disk0", "--size", "64MiB"]);
    let server = site.serve("buffer", NEVER);
    let client = server.attach(&token).await;
    write(&client, 0, 1).await;
    // Everything acknowledged is in it, although nothing was checkpointed before.
    let said = site.run_well("buffer", &["snapshot", "create", "disk0@monday"]);
    assert!(!said.contains("not asked"), "{said}");
    write(&client, 0, 2).await;
    write(&client, 1, 2).await;
    let json = ["image", "rollback", "disk0@monday", "--output", "json"];
    let done: serde_json::Value =
        serde_json::from_str(&site.run_well("buffer", &json)).expect("JSON");
    assert_eq!(read(&client, 0).await, 1);
    assert_eq!(read(&client, 1).await, 0);
    // The same connection goes on writing.
    write(&client, 2, 3).await;
    client.flush().await.unwrap();
    server.kill();
    let server = site.serve("buffer", NEVER);
    let client = server.attach(&token).await;
    let content = [
        read(&client, 0).await,
        read(&client, 1).await,
        read(&client, 2).await,
    ];
    assert_eq!(content, [1, 0, 3]);
    // What was written before the rollback was published first, so it can be undone.
    let undo = done["undo_version"].to_string();
    site.run_well(
        "buffer",
        &["image", "rollback", "disk0", "--version", &undo],
    );
    let content = [
        read(&client, 0).await,
        read(&client, 1).await,
        read(&client, 2).await,
    ];
    assert_eq!(content, [2, 2, 0]);
    let gone = ["image", "rollback", "disk0", "--version", "9999"];
    assert!(refused(&site, "buffer", &gone).contains("mvps image versions disk0"));
    let versions = site.run_well("buffer", &["image", "versions", "disk0"]);
    assert!(versions.contains("@monday"), "{versions}");
    server.stop();
}

#[tokio::test]
async fn clones_outlive_their_source() {
    let site = Site::new();
    let token = site.token(&["--image", "disk0", "--size", "64MiB"]);
    let server = site.serve("buffer", NEVER);
    let client = server.attach(&token).await;
    for page in 0..8 {
        write(&client, page, page as u8 + 1).await;
    }
    site.run_well("buffer", &["snapshot", "create", "disk0@monday"]);
    write(&client, 0, 100).await;
    site.run_well("buffer", &["image", "clone", "disk0@monday", "copy"]);
    // Of the present state, which the server checkpoints first.
    site.run_well("buffer", &["image", "clone", "disk0", "present"]);
    let copy = server.attach(&site.token(&["--image", "copy"])).await;
    let present = server.attach(&site.token(&["--image", "present"])).await;
    assert_eq!((read(&copy, 0).await, read(&present, 0).await), (1, 100));
    write(&copy, 1, 50).await;
    write(&client, 2, 60).await;
    let content = [
        read(&copy, 1).await,
        read(&copy, 2).await,
        read(&client, 1).await,
    ];
    assert_eq!(content, [50, 3, 2]);
    let said = refused(&site, "buffer", &["image", "clone", "disk0", "copy"]);
    assert!(said.contains("exists already"), "{said}");
    site.run_well("buffer", &["image", "clone", "copy", "grandchild"]);
    let pins = site.run_well("buffer", &["image", "pins", "disk0"]);
    assert!(
        pins.contains("clone copy") && pins.contains("clone grandchild"),
        "{pins}"
    );

    let said = refused(&site, "buffer", &["image", "delete", "disk0"]);
    assert!(said.contains("--force"), "{said}");
    drop(client);
    site.run_well("buffer", &["image", "delete", "disk0", "--force"]);
    assert_eq!(read(&copy, 7).await, 8);
    drop((copy, present));
    server.stop();
    site.run_well("buffer", &["image", "delete", "copy"]);

    let server = site.serve("another", NEVER);
    let client = server.attach(&site.token(&["--image", "grandchild"])).await;
    let mut content = Vec::new();
    for page in 0..8 {
        content.push(read(&client, page).await);
    }
    assert_eq!(content, [1, 50, 3, 4, 5, 6, 7, 8]);
    let again = site.token(&["--image", "disk0", "--size", "64MiB"]);
    let client = server.attach(&again).await;
    assert_eq!(read(&client, 0).await, 0, "another image of the name");
    server.stop();
}

#[tokio::test]
async fn without_a_server_everything_goes_through_the_object_store() {
    let site = Site::new();
    let token = site.token(&["--image", "disk0", "--size", "64MiB"]);
    let server = site.serve("buffer", NEVER);
    let client = server.attach(&token).await;
    write(&client, 0, 1).await;
    drop(client);
    server.stop();
    site.run_well("buffer", &["snapshot", "create", "disk0@monday"]);
    let server = site.serve("buffer", NEVER);
    let client = server.attach(&token).await;
    write(&client, 0, 2).await;
    client.flush().await.unwrap();
    // Killed: it may hold what nobody else has.
    server.kill();
    let said = site.run_well("buffer", &["snapshot", "create", "disk0@tuesday"]);
    assert!(said.contains("last checkpoint"), "{said}");
    for words in [
        &["image", "rollback", "disk0@monday"][..],
        &["image", "resize", "disk0", "128MiB"],
        &["image", "delete", "disk0"],
    ] {
        let said = refused(&site, "buffer", words);
        assert!(said.contains("in the hands of"), "{words:?}: {said}");
    }
    let server = site.serve("buffer", NEVER);
    let client = server.attach(&token).await;
    assert_eq!(read(&client, 0).await, 2);
    drop(client);
    server.stop();

    site.run_well("buffer", &["image", "rollback", "disk0@monday"]);
    site.run_well("buffer", &["image", "resize", "disk0", "128MiB"]);
    let said = refused(&site, "buffer", &["image", "resize", "disk0", "64MiB"]);
    assert!(said.contains("cannot shrink"), "{said}");
    let taken = refused(&site, "buffer", &["snapshot", "create", "disk0@monday"]);
    assert!(taken.contains("snapshot delete disk0@monday"), "{taken}");
    let listed = site.run_well("buffer", &["snapshot", "list", "disk0"]);
    assert!(
        listed.contains("monday") && listed.contains("tuesday"),
        "{listed}"
    );
    site.run_well("buffer", &["snapshot", "delete", "disk0@tuesday"]);
    let server = site.serve("buffer", NEVER);
    let client = server.attach(&site.token(&["--image", "disk0"])).await;
    assert_eq!(read(&client, 0).await, 1);
    assert_eq!(client.export().size_bytes, 128 * MIB);
    server.stop();
}

#[tokio::test]
async fn growth_of_an_open_image() {
    let site = Site::new();
    let token = site.token(&["--image", "disk0", "--size", "64MiB"]);
    let server = site.serve("buffer", NEVER);
    let client = server.attach(&token).await;
    write(&client, 0, 1).await;
    site.run_well("buffer", &["image", "resize", "disk0", "96MiB"]);
    let said = refused(&site, "buffer", &["image", "resize", "disk0", "64MiB"]);
    assert!(said.contains("cannot shrink"), "{said}");
    let second = server.attach(&token).await;
    assert_eq!(second.export().size_bytes, 96 * MIB);
    assert_eq!(read(&second, 0).await, 1);
    write(&second, 20_000, 7).await;
    server.stop();
}
