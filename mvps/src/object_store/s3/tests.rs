//! The adapter against a real S3 server over HTTP, and against scripted answers where no server
//! gives them on demand.

use mvps_core::env::conformance::check_object_store;
use s3_test_server::{ACCESS_KEY, BUCKET, Proxy, ProxyMode, S3Server, SECRET_KEY};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn any_port() -> std::net::SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// As [`S3ObjectStore::connect`], but with credentials that do not come from the environment,
/// which a test must not set.
pub(in crate::object_store) async fn connect(
    endpoint: String,
    bucket: &str,
    secret: &str,
    prefix: &str,
) -> S3ObjectStore {
    let location = S3Location {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: Some(endpoint),
    };
    let credentials = Credentials::new(ACCESS_KEY, secret, None, None, "test");
    S3ObjectStore::connect_with(location, Some(credentials))
        .await
        .unwrap()
}

async fn start(prefix: &str) -> (tempfile::TempDir, S3Server, S3ObjectStore) {
    let folder = tempfile::tempdir().unwrap();
    let server = S3Server::start(folder.path(), any_port()).await.unwrap();
    let store = connect(server.endpoint(), BUCKET, SECRET_KEY, prefix).await;
    (folder, server, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let (_folder, _server, store) = start("").await;
    check_object_store(&store, "suite/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_below_a_prefix() {
    let (_folder, server, store) = start("some/prefix/").await;
    let outside = connect(server.endpoint(), BUCKET, SECRET_KEY, "").await;
    outside
        .put("some/other", Bytes::from_static(b"x"))
        .await
        .unwrap();
    outside
        .put("some/prefix-like", Bytes::from_static(b"x"))
        .await
        .unwrap();
    check_object_store(&store, "suite/").await;
    assert_eq!(store.list("", None, 10).await, Ok(vec![]));
    store.put("below", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(
        outside.get("some/prefix/below").await,
        Ok(Bytes::from_static(b"x"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_is_one_request_even_when_it_fails() {
    let (_folder, server, store) = start("").await;
    let before = server.counts().total();
    store.put("k", Bytes::from_static(b"body")).await.unwrap();
    store
        .create("k", Bytes::from_static(b"body"))
        .await
        .unwrap_err();
    store.get("absent").await.unwrap_err();
    store.get_range("k", 0..100).await.unwrap_err();
    store.list("", None, 1000).await.unwrap();
    store.delete(&["k".to_owned()]).await.remove(0).unwrap();
    assert_eq!(server.counts().total() - before, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_and_buckets_are_not_retried() {
    let (_folder, server, _store) = start("").await;
    let unauthenticated = connect(server.endpoint(), BUCKET, "wrong-secret", "").await;
    let got = unauthenticated.get("k").await;
    assert!(matches!(got, Err(StoreError::Denied { .. })), "{got:?}");
    let lost = connect(server.endpoint(), "no-such-bucket", SECRET_KEY, "").await;
    let listed = lost.list("", None, 1).await;
    assert!(
        matches!(listed, Err(StoreError::Invalid { .. })),
        "{listed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_unavailable() {
    let (_folder, server, _store) = start("").await;
    let proxy = Proxy::start(any_port(), server.address()).await.unwrap();
    let store = connect(proxy.endpoint(), BUCKET, SECRET_KEY, "").await;
    store.put("k", Bytes::from_static(b"body")).await.unwrap();
    proxy.set_mode(ProxyMode::Cut);
    let got = store.get("k").await;
    assert!(
        matches!(got, Err(StoreError::Unavailable { .. })),
        "{got:?}"
    );
    proxy.set_mode(ProxyMode::Open);
    assert_eq!(store.get("k").await, Ok(Bytes::from_static(b"body")));
    drop(proxy);
    let got = store.get("k").await;
    assert!(
        matches!(got, Err(StoreError::Unavailable { .. })),
        "{got:?}"
    );
}

/// Answers every request on every connection with `answer`, then closes.
async fn scripted_server(answer: String) -> String {
    let listener = tokio::net::TcpListener::bind(any_port()).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 65536];
            let mut length = 0;
            while !request[..length].windows(4).any(|end| end == b"\r\n\r\n") {
                length += stream.read(&mut request[length..]).await.unwrap().max(1);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    endpoint
}

fn answer(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

fn error_body(code: &str) -> String {
    format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>")
}

#[tokio::test]
async fn answers_that_no_server_gives_on_demand() {
    let upload = UploadId("upload".to_owned());
    let parts = [PartTag("\"tag\"".to_owned())];
    for (name, script, expected) in [
        (
            "conflict",
            answer("409 Conflict", &error_body("ConditionalRequestConflict")),
            "Unavail",
        ),
        (
            "exists",
            answer("412 Precondition Failed", &error_body("PreconditionFailed")),
            "Already",
        ),
        (
            "slow down",
            answer("503 Slow Down", &error_body("SlowDown")),
            "SlowDown",
        ),
        (
            "server error",
            answer("500 Internal Server Error", ""),
            "Unavail",
        ),
        (
            "a proxy's page",
            answer("502 Bad Gateway", "<html>oops</html>"),
            "Unavail",
        ),
        (
            "error inside a 200",
            answer("200 OK", &error_body("InternalError")),
            "Unavail",
        ),
        (
            "denied",
            answer("403 Forbidden", &error_body("AccessDenied")),
            "Denied",
        ),
    ] {
        let store = connect(scripted_server(script).await, BUCKET, SECRET_KEY, "").await;
        let completed = store
            .complete_upload("k", &upload, &parts)
            .await
            .unwrap_err();
        assert!(
            format!("{completed:?}").starts_with(expected),
            "{name}: {completed:?}"
        );
        if name != "error inside a 200" {
            let created = store
                .create("k", Bytes::from_static(b"x"))
                .await
                .unwrap_err();
            assert!(
                format!("{created:?}").starts_with(expected),
                "{name}: {created:?}"
            );
        }
    }
}

#[tokio::test]
async fn short_bodies_are_never_served() {
    let cut = "HTTP/1.1 206 Partial Content\r\ncontent-length: 4\r\nconnection: close\r\n\r\nab";
    let store = connect(
        scripted_server(cut.to_owned()).await,
        BUCKET,
        SECRET_KEY,
        "",
    )
    .await;
    let got = store.get_range("k", 0..4).await;
    assert!(
        matches!(got, Err(StoreError::Unavailable { .. })),
        "{got:?}"
    );

    let short = answer("206 Partial Content", "ab");
    let store = connect(scripted_server(short).await, BUCKET, SECRET_KEY, "").await;
    let got = store.get_range("k", 0..4).await;
    assert!(matches!(got, Err(StoreError::Corrupt { .. })), "{got:?}");

    let store = connect(
        scripted_server(cut.to_owned()).await,
        BUCKET,
        SECRET_KEY,
        "",
    )
    .await;
    let got = store.get("k").await;
    assert!(
        matches!(got, Err(StoreError::Unavailable { .. })),
        "{got:?}"
    );
}

#[tokio::test]
async fn bulk_deletion_reports_each_key() {
    let body = "<?xml version=\"1.0\"?><DeleteResult>\
                <Error><Key>b</Key><Code>InternalError</Code><Message>m</Message></Error>\
                <Error><Key>c</Key><Code>AccessDenied</Code><Message>m</Message></Error>\
                </DeleteResult>";
    let store = connect(
        scripted_server(answer("200 OK", body)).await,
        BUCKET,
        SECRET_KEY,
        "",
    )
    .await;
    let keys = ["a", "b", "c"].map(str::to_owned);
    let results = store.delete(&keys).await;
    assert_eq!(results[0], Ok(()));
    assert!(
        matches!(results[1], Err(StoreError::Unavailable { .. })),
        "{results:?}"
    );
    assert!(
        matches!(results[2], Err(StoreError::Denied { .. })),
        "{results:?}"
    );
}
