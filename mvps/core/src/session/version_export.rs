//! A published version while a server serves it: pinned in its image under the server's reader id,
//! until the last client has left and the server closes it (protocol §4.7).
//!
//! A server that dies leaves its pin behind. The next server with the same reader id that serves
//! the same thing takes the pin over; otherwise `mvps image pins --release` frees it.

use std::sync::Arc;

use super::images::OpenFailure;
use crate::admin::{Admin, AdminError, pin_version, release_reader};
use crate::encryption::RootKeys;
use crate::engine::{EngineError, Host, PublishedVersion};
use crate::env::{Clock, Entropy};
use crate::ids::ImageId;
use crate::protocol::{ManifestError, ManifestStore};
use crate::token::Shown;

/// A pinned version and what releases its pin. Clones are the same export.
#[derive(Clone)]
pub struct VersionExport {
    version: PublishedVersion,
    pin: Arc<ReaderPin>,
}

struct ReaderPin {
    image: ImageId,
    reader: String,
    manifests: ManifestStore,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    root_keys: Arc<RootKeys>,
}

impl ReaderPin {
    fn admin(&self) -> Admin<'_> {
        Admin {
            manifests: &self.manifests,
            clock: &*self.clock,
            entropy: &*self.entropy,
            root_keys: &self.root_keys,
        }
    }

    async fn release(&self) -> Result<(), EngineError> {
        match release_reader(&self.admin(), &self.image, &self.reader).await {
            Ok(_) => Ok(()),
            Err(AdminError::NoSuchReader { .. }) => {
                tracing::warn!(
                    image = %self.image, reader = %self.reader,
                    "somebody released the pin while the version was served"
                );
                Ok(())
            }
            Err(error) => Err(EngineError::Unreadable {
                reason: error.to_string(),
            }),
        }
    }
}

impl VersionExport {
    /// Pins and opens what `shown` of `image` is now, for the server called `server`.
    ///
    /// # Errors
    /// [`OpenFailure`].
    pub(super) async fn open(
        host: &Host,
        manifests: &ManifestStore,
        server: &str,
        image: &ImageId,
        shown: &Shown,
    ) -> Result<Self, OpenFailure> {
        let pin = ReaderPin {
            image: image.clone(),
            reader: reader_id(server, shown),
            manifests: manifests.clone(),
            clock: Arc::clone(&host.environment.clock),
            entropy: Arc::clone(&host.environment.entropy),
            root_keys: Arc::clone(&host.root_keys),
        };
        let pinned = pin_version(&pin.admin(), image, shown, &pin.reader).await;
        let manifest = pinned.map_err(|error| failure(&error))?.manifest;
        match PublishedVersion::open(host, &manifest).await {
            Ok(version) => {
                let number = version.version();
                tracing::info!(%image, version = %number, reader = %pin.reader, "pinned");
                Ok(Self {
                    version,
                    pin: Arc::new(pin),
                })
            }
            Err(error) => {
                if let Err(error) = pin.release().await {
                    tracing::warn!(%image, reader = %pin.reader, %error, "the pin stays");
                }
                Err(OpenFailure {
                    reason: error.to_string(),
                    told: None,
                })
            }
        }
    }

    /// What is served.
    #[must_use]
    pub fn version(&self) -> &PublishedVersion {
        &self.version
    }

    /// Releases the pin. Waits while the object store is unavailable.
    pub(super) async fn close(&self) -> Result<(), EngineError> {
        self.pin.release().await
    }
}

/// A reader id for each thing that a server serves, so that closing one leaves the others' pins
/// alone.
fn reader_id(server: &str, shown: &Shown) -> String {
    match shown {
        Shown::Newest => server.to_owned(),
        Shown::Version(version) => format!("{server}:version:{version}"),
        Shown::Snapshot(name) => format!("{server}:snapshot:{name}"),
    }
}

/// The client is told what concerns its own request.
pub(super) fn failure(error: &AdminError) -> OpenFailure {
    let told = match error {
        AdminError::VersionGone { .. }
        | AdminError::Manifest(ManifestError::NoSuchVersion { .. }) => {
            Some("the version is gone: the image does not keep it any more, or never had it")
        }
        AdminError::NoSuchSnapshot { .. } => Some("the image has no snapshot of that name"),
        AdminError::NoSuchImage { .. } | AdminError::Deleted { .. } => {
            Some("there is no such image, and the token does not create it")
        }
        _ => None,
    };
    OpenFailure {
        reason: error.to_string(),
        told,
    }
}
