//! Encrypted images through the real binary: what the object store's files hold, who can open them,
//! new root keys, and what a flipped bit does.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Server, Site, texts};

/// No checkpoint happens by itself, and nothing is compressed away.
const FLAGS: &[&str] = &[
    "--checkpoint-interval-ms",
    "3600000",
    "--compression",
    "off",
];

const OLD: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const NEW: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

const MARKER: &[u8; 32] = b"nobody but the owner may see it.";

/// Two pages of markers.
fn content() -> bytes::Bytes {
    MARKER.repeat(2 * 4096 / MARKER.len()).into()
}

/// Every file below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// Whether any file of the object store holds the marker.
fn is_in_the_clear(site: &Site) -> bool {
    let objects = files(&site.path("objects"));
    assert!(!objects.is_empty());
    let bodies = objects
        .iter()
        .map(|path| fs::read(path).expect("an object"));
    bodies
        .into_iter()
        .any(|body| body.windows(MARKER.len()).any(|seen| seen == MARKER))
}

/// Makes `disk0` with the content in pages 3 and 4, closed.
async fn written(site: &Site) -> String {
    let token = site.token(&["--image", "disk0", "--size", "16MiB"]);
    let server = site.serve("buffer", FLAGS);
    let client = server.attach(&token).await;
    client
        .write(3 * 4096, content(), false)
        .await
        .expect("a write");
    drop(client);
    server.stop();
    token
}

async fn reads_well(server: &Server, token: &str) -> bool {
    let client = server.attach(token).await;
    let read = client.read(3 * 4096, 2 * 4096).await;
    read.is_ok_and(|found| found == content())
}

fn site(root_keys: &str) -> Site {
    let mut site = Site::new();
    site.set_root_keys(root_keys);
    site
}

#[tokio::test]
async fn the_object_store_never_sees_content() {
    let clear = Site::new();
    written(&clear).await;
    assert!(is_in_the_clear(&clear), "the marker is found where it is");
    let mut site = site(OLD);
    let token = written(&site).await;
    assert!(!is_in_the_clear(&site));

    let server = site.serve("elsewhere", FLAGS);
    assert!(reads_well(&server, &token).await);
    server.stop();
    for (keys, wanted) in [("", "no root key is given"), (NEW, "add that key")] {
        site.set_root_keys(keys);
        let server = site.serve("elsewhere", FLAGS);
        assert!(server.try_attach(&token).await.is_err());
        let log = server.log();
        assert!(
            log.contains(wanted) && log.contains("MVPS_TE_ROOT_KEY"),
            "{log}"
        );
        assert!(!log.contains(OLD) && !log.contains(NEW), "{log}");
        server.stop();
    }
    for wrong in ["secret", &OLD[..40], &format!("{OLD},")] {
        site.set_root_keys(wrong);
        let (_, log) = site
            .try_serve("elsewhere", FLAGS)
            .err()
            .expect("it refuses");
        assert!(
            log.contains("32 bytes in base64") && !log.contains(&OLD[..40]),
            "{log}"
        );
    }
}

#[tokio::test]
async fn a_flipped_bit_is_an_error() {
    let site = site(OLD);
    let token = written(&site).await;
    let mut objects = files(&site.path("objects")).into_iter();
    let segment = objects.find(|path| path.extension().is_some_and(|it| it == "segment"));
    let segment = segment.expect("a segment");
    let good = fs::read(&segment).expect("a segment");
    let mut bad = good.clone();
    bad[4000] ^= 4;
    fs::write(&segment, &bad).expect("a file");
    let server = site.serve("elsewhere", FLAGS);
    assert!(!reads_well(&server, &token).await);
    server.stop();
    let checked = site.run("buffer", &["check", "--all", "--read-data"]);
    assert!(!checked.status.success(), "{:?}", texts(&checked));
    fs::write(&segment, &good).expect("a file");
    let server = site.serve("elsewhere", FLAGS);
    assert!(reads_well(&server, &token).await);
    server.stop();
}

#[tokio::test]
async fn root_keys_change_while_images_stay() {
    let mut site = site(OLD);
    let token = written(&site).await;
    site.run_well("buffer", &["snapshot", "create", "disk0@monday"]);
    let rekey = ["image", "rekey", "disk0"];
    let both = format!("{NEW},{OLD}");

    // The server must be able to open it again.
    let server = site.serve("buffer", FLAGS);
    let client = server.attach(&token).await;
    site.set_root_keys(&both);
    let refused = texts(&site.run("buffer", &rekey)).1;
    assert!(
        refused.contains("start it with the new key first"),
        "{refused}"
    );
    drop(client);
    server.stop();

    let server = site.serve("buffer", FLAGS);
    let client = server.attach(&token).await;
    let done = site.run_well("buffer", &rekey);
    assert!(
        done.contains("no more") && !done.contains("already"),
        "{done}"
    );
    let again = site.run_well("buffer", &rekey);
    assert!(again.contains("already"), "{again}");
    client
        .write(3 * 4096, content(), true)
        .await
        .expect("a write");
    drop(client);
    server.stop();

    site.set_root_keys(OLD);
    let server = site.serve("buffer", FLAGS);
    assert!(server.try_attach(&token).await.is_err());
    server.stop();
    site.set_root_keys(NEW);
    let server = site.serve("buffer", FLAGS);
    assert!(reads_well(&server, &token).await);
    let monday = site.token(&["--image", "disk0", "--snapshot", "monday"]);
    assert!(reads_well(&server, &monday).await, "a version from before");
    server.stop();

    // Without a server, and back.
    site.set_root_keys(&format!("{OLD},{NEW}"));
    let shown = site.run_well("buffer", &rekey);
    assert!(shown.contains("no more"), "{shown}");
    site.set_root_keys(OLD);
    let server = site.serve("buffer", FLAGS);
    assert!(reads_well(&server, &token).await);
    server.stop();
    assert!(!is_in_the_clear(&site));
}

#[tokio::test]
async fn clones_and_checks_of_encrypted_images() {
    let mut site = site(OLD);
    written(&site).await;
    site.run_well("buffer", &["image", "clone", "disk0", "copy"]);
    let shown = site.run_well("buffer", &["image", "show", "copy"]);
    assert!(shown.contains("encrypted"), "{shown}");
    let token = site.token(&["--image", "copy"]);
    let server = site.serve("elsewhere", FLAGS);
    assert!(reads_well(&server, &token).await);
    let client = server.attach(&token).await;
    client
        .write(8 * 4096, content(), false)
        .await
        .expect("a write");
    drop(client);
    server.stop();
    assert!(!is_in_the_clear(&site));

    let check = ["check", "--all", "--read-data"];
    let with = site.run_well("buffer", &check);
    assert!(!with.contains("NOT OPENED"), "{with}");
    site.set_root_keys("");
    let without = site.run_well("buffer", &check);
    assert!(without.contains("NOT OPENED"), "{without}");
    let structure = site.run_well("buffer", &["check", "--all"]);
    assert!(!structure.contains("NOT OPENED"), "{structure}");
    let refused = texts(&site.run("buffer", &["image", "clone", "disk0", "another"])).1;
    assert!(refused.contains("MVPS_TE_ROOT_KEY"), "{refused}");
}

#[tokio::test]
async fn a_server_can_refuse_what_is_in_the_clear() {
    let mut site = Site::new();
    let token = written(&site).await;
    let strict = [FLAGS, &["--require-encryption"]].concat();
    let (_, log) = site
        .try_serve("elsewhere", &strict)
        .err()
        .expect("it has no key");
    assert!(log.contains("MVPS_TE_ROOT_KEY"), "{log}");
    site.set_root_keys(OLD);
    let server = site.serve("elsewhere", &strict);
    assert!(server.try_attach(&token).await.is_err());
    assert!(
        server.log().contains("is not encrypted"),
        "{}",
        server.log()
    );
    site.run_well("buffer", &["image", "clone", "disk0", "copy"]);
    assert!(reads_well(&server, &site.token(&["--image", "copy"])).await);
    server.stop();
}
