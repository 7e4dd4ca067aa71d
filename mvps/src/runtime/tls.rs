//! TLS with rustls. The server's side: one certificate, read from files and read again on demand.
//! The client's: whom it trusts, and what it shows.
//!
//! Invariants: what cannot be read or does not fit together changes nothing; connections that exist
//! keep what they began with. Must never: log a key.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, ensure};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use mvps_core::client::ClientSecurity;
use mvps_core::env::Connection;
use mvps_core::session::{Secured, Security, TlsClient};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

#[cfg(test)]
mod tests;

/// Where certificates are. All are PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and those between it and a root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who signs the certificates of clients; without it clients show none.
    pub client_ca: Option<PathBuf>,
}

/// Encrypts connections with what the files hold.
#[derive(Debug)]
pub struct RustlsSecurity {
    files: TlsFiles,
    is_required: bool,
    config: RwLock<Arc<ServerConfig>>,
}

impl RustlsSecurity {
    /// Reads the files.
    ///
    /// # Errors
    /// Which one cannot be used, and why.
    pub fn load(files: TlsFiles, is_required: bool) -> anyhow::Result<Self> {
        let config = RwLock::new(Arc::new(read(&files)?));
        Ok(Self {
            files,
            is_required,
            config,
        })
    }

    /// Reads the files again, for connections to come.
    ///
    /// # Errors
    /// As for [`Self::load`]; everything stays as it was then.
    pub fn reload(&self) -> anyhow::Result<()> {
        let config = Arc::new(read(&self.files)?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Security for RustlsSecurity {
    fn is_required(&self) -> bool {
        self.is_required
    }

    fn secure(&self, stream: Box<dyn Connection>) -> BoxFuture<'static, io::Result<Secured>> {
        let acceptor = TlsAcceptor::from(self.config());
        async move {
            let stream = acceptor.accept(stream).await?;
            let (_, session) = stream.get_ref();
            let shown = session.peer_certificates().and_then(<[_]>::first);
            let client = TlsClient {
                names: shown.map(dns_names).unwrap_or_default(),
            };
            let stream = Box::new(stream);
            Ok(Secured { stream, client })
        }
        .boxed()
    }
}

/// What a client needs. All are PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTlsFiles {
    /// Who signs the certificates of servers.
    pub ca: PathBuf,
    /// The client's own certificate and its private key, for servers that ask.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// Encrypts a client's connections, and verifies that the server is the one that is meant.
#[derive(Debug, Clone)]
pub struct RustlsClientSecurity {
    config: Arc<ClientConfig>,
    server: ServerName<'static>,
}

impl RustlsClientSecurity {
    /// Reads the files; `server` is the DNS name or IP address that the server's certificate must
    /// be for.
    ///
    /// # Errors
    /// Which one cannot be used, and why.
    pub fn load(files: &ClientTlsFiles, server: &str) -> anyhow::Result<Self> {
        let server = ServerName::try_from(server.to_owned())
            .with_context(|| format!("{server:?} is neither a DNS name nor an IP address"))?;
        let roots = roots(&files.ca).with_context(|| format!("--tls-ca {}", files.ca.display()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("TLS")?
            .with_root_certificates(roots);
        let config = match &files.own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let shown = certificates(cert)
                    .with_context(|| format!("--tls-client-cert {}", cert.display()))?;
                let secret = PrivateKeyDer::from_pem_file(key)
                    .with_context(|| format!("--tls-client-key {}", key.display()))?;
                let together = builder.with_client_auth_cert(shown, secret);
                together.context("--tls-client-cert and --tls-client-key do not go together")?
            }
        };
        let config = Arc::new(config);
        Ok(Self { config, server })
    }
}

impl ClientSecurity for RustlsClientSecurity {
    fn secure(
        &self,
        stream: Box<dyn Connection>,
    ) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let server = self.server.clone();
        async move {
            let stream = connector.connect(server, stream).await?;
            let stream: Box<dyn Connection> = Box::new(stream);
            Ok(stream)
        }
        .boxed()
    }
}

fn read(files: &TlsFiles) -> anyhow::Result<ServerConfig> {
    let certificates = certificates(&files.cert)
        .with_context(|| format!("--tls-cert {}", files.cert.display()))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("--tls-key {}", files.key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context("TLS")?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let describe = || format!("--tls-client-ca {}", path.display());
            let roots = roots(path).with_context(describe)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().with_context(describe)?)
        }
    };
    builder
        .with_single_cert(certificates, key)
        .with_context(|| {
            let (cert, key) = (files.cert.display(), files.key.display());
            format!("--tls-cert {cert} and --tls-key {key} do not go together")
        })
}

fn roots(path: &PathBuf) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for root in certificates(path)? {
        roots.add(root)?;
    }
    Ok(roots)
}

fn certificates(path: &PathBuf) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)?.collect::<Result<_, _>>()?;
    ensure!(!certificates.is_empty(), "no certificate in it");
    Ok(certificates)
}

/// The DNS names that a certificate is for. It was verified before.
fn dns_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    match webpki::EndEntityCert::try_from(certificate) {
        Ok(parsed) => parsed.valid_dns_names().map(str::to_owned).collect(),
        Err(_) => Vec::new(),
    }
}
