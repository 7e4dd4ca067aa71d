//! Loads what connections are encrypted with, and loads it again on SIGHUP.

use std::sync::Arc;

use anyhow::Context as _;

use super::settings::TlsSettings;
use super::signals::ReloadSignal;
use crate::runtime::RustlsSecurity;

/// Reads what the settings name.
///
/// # Errors
/// If a file cannot be used.
pub fn load(settings: &TlsSettings) -> anyhow::Result<Arc<RustlsSecurity>> {
    let files = settings.files.clone();
    Ok(Arc::new(RustlsSecurity::load(files, settings.required)?))
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
