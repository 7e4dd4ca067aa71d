//! Flags, tokens, and errors that say what to do.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Site, bare_mvps, texts};

/// Runs `mvps` with `words`, which must fail; returns what it said.
fn refused(words: &[&str]) -> String {
    let site = Site::new();
    let output = site.run("buffer", words);
    let (stdout, stderr) = texts(&output);
    assert!(!output.status.success(), "{words:?}: {stdout}{stderr}");
    stderr
}

#[test]
fn what_is_wrong_is_named() {
    let check = |words: &[&str], names: &str| {
        let said = refused(words);
        assert!(said.contains(names), "{words:?} said: {said}");
    };
    check(&["serve", "--no-such-flag"], "--no-such-flag");
    check(&["serve", "--listen", "nowhere"], "nowhere");
    check(&["serve", "--checkpoint-interval-ms", "soon"], "soon");
    check(&["serve", "--checkpoint-interval-ms", "0"], "0");
    check(&["serve", "--image-store", "tape"], "tape");
    check(&["token"], "--image");
    check(&["token", "--image", "../etc"], "image id");
    check(&["token", "--image", "disk0", "--size", "ten"], "ten");
    check(&["image", "show", "absent"], "absent");
    check(&["image", "takeover", "absent"], "absent");
    check(&["frobnicate"], "frobnicate");
}

#[test]
fn without_a_server_status_says_so() {
    let said = refused(&["status"]);
    assert!(said.contains("server"), "{said}");
    assert!(said.contains("--buffer-store-path"), "{said}");
}

#[test]
fn a_bucket_is_needed_for_s3() {
    let site = Site::new();
    let output = bare_mvps(&site.path(""), &["serve", "--image-store", "s3"]).output();
    let output = output.expect("the binary runs");
    let (_, stderr) = texts(&output);
    assert!(!output.status.success());
    assert!(stderr.contains("--image-store-s3-bucket"), "{stderr}");
}

#[tokio::test]
async fn a_list_of_changes_is_applied_or_not() {
    let site = Site::new();
    let server = site.serve("buffer", &[]);
    let token = site.token(&["--image", "disk0", "--size", "64MiB"]);
    let client = server.attach(&token).await;
    client.write(0, vec![7; 65536].into(), false).await.unwrap();
    let connect = format!("unix:{}", site.path("buffer.sock").display());
    let apply = |list: &str| {
        let path = site.path("list");
        std::fs::write(&path, list).expect("a list");
        let path = path.to_string_lossy().into_owned();
        let words = [
            "txn",
            "--image",
            "disk0",
            "--durable",
            "--connect",
            &connect,
            &path,
        ];
        let output = site.run("buffer", &words);
        (output.status.success(), texts(&output))
    };
    let content = site.path("content");
    std::fs::write(&content, b"from a file").expect("a file");
    let good = format!(
        "0 48656c6c6f\n10 @{}\n8KiB zero 100\n16KiB trim 8KiB # two pages\n",
        content.display()
    );
    let (applied, said) = apply(&good);
    assert!(applied && said.0.contains("4 changes"), "{said:?}");
    assert_eq!(
        client.read(0, 22).await.unwrap()[..],
        *b"Hello\x07\x07\x07\x07\x07from a file\x07"
    );
    assert_eq!(client.read(8191, 102).await.unwrap()[..3], [7, 0, 0]);
    assert_eq!(client.read(16384, 1).await.unwrap()[..], [0]);
    for (list, names) in [
        ("0 00\n64MiB 00\n", "line 2"),
        ("0 00\n1 zero\n", "line 2"),
        ("", "no change"),
    ] {
        let (applied, (_, said)) = apply(list);
        assert!(!applied && said.contains(names), "{list:?}: {said}");
    }
    assert_eq!(client.read(0, 1).await.unwrap()[..], *b"H");
    server.stop();
    let (applied, (_, said)) = apply("0 00\n");
    assert!(!applied && said.contains("--connect"), "{said}");
}

#[tokio::test]
async fn a_list_of_changes_goes_over_tls() {
    let site = Site::new();
    let file = |name: &str| format!("{}/src/runtime/testdata/{name}", env!("CARGO_MANIFEST_DIR"));
    let (cert, key, ca) = (file("server.pem"), file("server-key.pem"), file("ca.pem"));
    let tls = [
        "--tls-required",
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--tls-client-ca",
        &ca,
    ];
    let server = site.serve("buffer", &tls);
    let token = site.token(&["--image", "disk0", "--size", "64MiB"]);
    let connect = format!("unix:{}", site.path("buffer.sock").display());
    let list = site.path("list");
    std::fs::write(&list, "0 48656c6c6f\n").expect("a list");
    let apply = |flags: &[&str]| {
        let list = list.to_string_lossy();
        let words = ["txn", "--token", &token, "--connect", &connect, &list];
        let output = site.run("buffer", &[&words[..], flags].concat());
        (output.status.success(), texts(&output).1)
    };
    let (own_cert, own_key) = (file("client.pem"), file("client-key.pem"));
    let own = ["--tls-client-cert", &own_cert, "--tls-client-key", &own_key];
    let trusting = [&["--tls-ca", &ca][..], &own].concat();
    let (applied, said) = apply(&trusting);
    assert!(applied, "{said}");
    // In the clear; without a certificate; to a server of another name, or of another authority.
    let elsewhere = [&trusting[..], &["--tls-server-name", "elsewhere.example"]].concat();
    let other_authority = [&["--tls-ca", &own_cert][..], &own].concat();
    for flags in [&[][..], &["--tls-ca", &ca], &elsewhere, &other_authority] {
        let (applied, said) = apply(flags);
        assert!(!applied && !said.is_empty(), "{flags:?}: {said}");
    }
    let log = server.log();
    assert!(!log.contains("panicked") && !log.contains(&token), "{log}");
    server.stop();
}

#[test]
fn help_names_every_subcommand() {
    let site = Site::new();
    let help = site.run_well("buffer", &["--help"]);
    for word in [
        "serve",
        "token",
        "image",
        "snapshot",
        "status",
        "checkpoint",
        "txn",
    ] {
        assert!(help.contains(word), "{help}");
    }
    assert!(site.run_well("buffer", &["--version"]).starts_with("mvps "));
}

#[test]
fn a_token_has_three_parts_and_no_secret() {
    let site = Site::new();
    let token = site.token(&["--image", "disk0", "--size", "10GiB"]);
    assert_eq!(token.split('.').count(), 3, "{token}");
    assert!(!token.contains("secret"));
}

#[test]
fn an_empty_store_lists_no_image() {
    let site = Site::new();
    let listed = site.run_well("buffer", &["image", "list", "--output", "json"]);
    assert_eq!(listed.trim(), "[]");
}

#[test]
fn a_signal_before_the_object_store_answers_ends_the_server_well() {
    let site = Site::new();
    // The system accepts connections for it; nobody ever answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", silent.local_addr().expect("bound"));
    let socket = site.path("early.sock");
    let listen = format!("unix:{}", socket.display());
    let mut server = site
        .mvps("buffer", &["serve", "--listen", &listen])
        .env("MVPS_TE_IMAGE_STORE", "s3")
        .env("MVPS_TE_IMAGE_STORE_S3_BUCKET", "bucket")
        .env("S3_ENDPOINT", endpoint)
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("AWS_REGION", "us-east-1")
        .spawn()
        .expect("the binary starts");
    let deadline = Instant::now() + Duration::from_secs(20);
    while UnixStream::connect(&socket).is_err() {
        assert!(Instant::now() < deadline, "it does not listen");
        std::thread::sleep(Duration::from_millis(2));
    }
    let pid = i32::try_from(server.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process id"), Signal::TERM).expect("SIGTERM");
    let status = server.wait().expect("a child");
    assert!(status.success(), "{status}");
    assert!(
        Instant::now() < deadline,
        "it waited for the object store first"
    );
}
