use std::path::Path;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

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
fn client(shows_certificate: bool) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for root in certificates(&testdata("ca.pem")).expect("certificates") {
        roots.add(root).expect("a root");
    }
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = if shows_certificate {
        let certificates = certificates(&testdata("client.pem")).expect("certificates");
        let key = PrivateKeyDer::from_pem_file(testdata("client-key.pem")).expect("a key");
        builder
            .with_client_auth_cert(certificates, key)
            .expect("they go together")
    } else {
        builder.with_no_client_auth()
    };
    TlsConnector::from(Arc::new(config))
}

/// What the server learns of the client, if a byte passes.
async fn handshake(security: &RustlsSecurity, shows_certificate: bool) -> io::Result<TlsClient> {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let connecting = async {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut stream = client(shows_certificate).connect(name, near).await?;
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
