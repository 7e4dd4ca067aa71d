//! From the TLS flags to what connections are encrypted with, and reading it again on SIGHUP.

use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::signals::ReloadSignal;
use crate::cli::TlsArgs;
use crate::runtime::{RustlsSecurity, TlsFiles};

/// What the flags ask for; `None` if they ask for nothing.
///
/// # Errors
/// If a file cannot be used, or TLS is required without a certificate.
pub fn load(args: &TlsArgs) -> anyhow::Result<Option<Arc<RustlsSecurity>>> {
    let (Some(cert), Some(key)) = (args.tls_cert.clone(), args.tls_key.clone()) else {
        if args.tls_required {
            bail!("--tls-required needs a certificate: add --tls-cert FILE --tls-key FILE");
        }
        return Ok(None);
    };
    let files = TlsFiles {
        cert,
        key,
        client_ca: args.tls_client_ca.clone(),
    };
    let security = RustlsSecurity::load(files, args.tls_required)?;
    Ok(Some(Arc::new(security)))
}

/// Reads the files again at every SIGHUP, for ever.
pub async fn reload(security: Arc<RustlsSecurity>, mut signal: ReloadSignal) {
    loop {
        signal.next().await;
        match security.reload() {
            Ok(()) => tracing::info!("certificates read again; new connections use them"),
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "certificates not read again; what was there stays in use"
            ),
        }
    }
}

/// Begins to listen for the signal.
///
/// # Errors
/// Whatever the system says.
pub fn reload_signal() -> anyhow::Result<ReloadSignal> {
    ReloadSignal::listen().context("SIGHUP cannot be heard")
}
