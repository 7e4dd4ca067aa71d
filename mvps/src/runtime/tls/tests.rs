use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Certificates made for these tests with openssl; they protect nothing.
fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/runtime/testdata")
        .join(name)
}

fn files() -> TlsFiles {
    TlsFiles {
        cert: testdata("server.pem"),
        key: testdata("server-key.pem"),
        client_ca: None,
    }
}

/// A client that trusts the CA of the tests, and shows the certificate of `host-1` if asked to.
fn client(shows_certificate: bool, server: &str) -> RustlsClientSecurity {
    let own = shows_certificate.then(|| (testdata("client.pem"), testdata("client-key.pem")));
    let files = ClientTlsFiles {
        ca: testdata("ca.pem"),
        own,
    };
    RustlsClientSecurity::load(&files, server).expect("files")
}

/// What the server learns of the client, if a byte passes.
async fn handshake(security: &RustlsSecurity, shows_certificate: bool) -> io::Result<TlsClient> {
    handshake_of(security, &client(shows_certificate, "localhost")).await
}

async fn handshake_of(
    security: &RustlsSecurity,
    client: &RustlsClientSecurity,
) -> io::Result<TlsClient> {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let connecting = async {
        let mut stream = client.secure(Box::new(near)).await?;
        stream.write_all(b"x").await?;
        stream.flush().await?;
        stream.read_exact(&mut [0; 1]).await?;
        Ok::<_, io::Error>(())
    };
    let accepting = async {
        let mut secured = security.secure(Box::new(far)).await?;
        let mut byte = [0; 1];
        secured.stream.read_exact(&mut byte).await?;
        secured.stream.write_all(&byte).await?;
        secured.stream.flush().await?;
        Ok::<_, io::Error>(secured.client)
    };
    let (connected, accepted) = futures_util::future::join(connecting, accepting).await;
    connected.and(accepted)
}

#[tokio::test]
async fn clients_are_who_their_certificate_says() {
    let open = RustlsSecurity::load(files(), false).expect("files");
    let client = handshake(&open, false).await.expect("a handshake");
    assert!(client.names.is_empty());
    let files = TlsFiles {
        client_ca: Some(testdata("ca.pem")),
        ..files()
    };
    let closed = RustlsSecurity::load(files, true).expect("files");
    let client = handshake(&closed, true).await.expect("a handshake");
    assert_eq!(client.names, ["host-1"]);
    handshake(&closed, false)
        .await
        .expect_err("a certificate is required");
    // The server's own certificate was signed by the same CA, but another one is no CA's.
    let files = TlsFiles {
        client_ca: Some(testdata("server.pem")),
        ..self::files()
    };
    let strange = RustlsSecurity::load(files, true).expect("files");
    handshake(&strange, true)
        .await
        .expect_err("not signed by that one");
}

#[tokio::test]
async fn reloading_takes_what_is_good_and_keeps_what_was() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let cert = folder.path().join("cert.pem");
    let key = folder.path().join("key.pem");
    std::fs::copy(testdata("server.pem"), &cert).expect("copy");
    std::fs::copy(testdata("server-key.pem"), &key).expect("copy");
    let files = TlsFiles {
        cert: cert.clone(),
        key,
        client_ca: None,
    };
    let security = RustlsSecurity::load(files, false).expect("files");
    let before = security.config();
    for garbage in [
        "",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        std::fs::write(&cert, garbage).expect("write");
        security.reload().expect_err("garbage");
    }
    // Another key's certificate.
    std::fs::copy(testdata("client.pem"), &cert).expect("copy");
    let error = security.reload().expect_err("they do not go together");
    assert!(format!("{error:#}").contains("go together"), "{error:#}");
    assert!(Arc::ptr_eq(&before, &security.config()));
    handshake(&security, false).await.expect("as before");
    std::fs::copy(testdata("server.pem"), &cert).expect("copy");
    security.reload().expect("good again");
    assert!(!Arc::ptr_eq(&before, &security.config()));
    handshake(&security, false).await.expect("a handshake");
}

#[test]
fn errors_name_flag_and_file() {
    let missing = TlsFiles {
        key: "no-such-file.pem".into(),
        ..files()
    };
    let error = RustlsSecurity::load(missing, false).expect_err("no key");
    let text = format!("{error:#}");
    assert!(text.contains("--tls-key no-such-file.pem"), "{text}");
}

#[tokio::test]
async fn the_server_is_the_one_that_is_meant() {
    let open = RustlsSecurity::load(files(), false).expect("files");
    handshake_of(&open, &client(false, "localhost"))
        .await
        .expect("its name");
    handshake_of(&open, &client(false, "elsewhere.example"))
        .await
        .expect_err("another name");
    // Nobody that it trusts signed it.
    let files = ClientTlsFiles {
        ca: testdata("client.pem"),
        own: None,
    };
    let mistaken = RustlsClientSecurity::load(&files, "localhost").expect("files");
    handshake_of(&open, &mistaken)
        .await
        .expect_err("another authority");
    for server in ["", "a b"] {
        RustlsClientSecurity::load(&files, server).expect_err("no name");
    }
}
