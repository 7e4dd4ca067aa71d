//! A published version while a server serves it: pinned in its image in the name of the server's
//! life, until the last client has left and the server closes it (protocol §4.7).
//!
//! A server that dies leaves its pin behind. The next life of its line that pins something in that
//! image takes it away; otherwise `mvps image pins --release` frees it.

use std::sync::Arc;

use super::images::OpenFailure;
use crate::admin::{Admin, AdminError, ReaderLife, pin_version, release_pin};
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
    name: String,
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
        match release_pin(&self.admin(), &self.image, &self.name).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                tracing::warn!(
                    image = %self.image, pin = %self.name,
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
    /// Pins and opens what `shown` of `image` is now, for the life `reader`.
    ///
    /// # Errors
    /// [`OpenFailure`].
    pub(super) async fn open(
        host: &Host,
        manifests: &ManifestStore,
        reader: &ReaderLife,
        image: &ImageId,
        shown: &Shown,
    ) -> Result<Self, OpenFailure> {
        let mut pin = ReaderPin {
            image: image.clone(),
            name: String::new(),
            manifests: manifests.clone(),
            clock: Arc::clone(&host.environment.clock),
            entropy: Arc::clone(&host.environment.entropy),
            root_keys: Arc::clone(&host.root_keys),
        };
        let pinned = pin_version(&pin.admin(), image, shown, reader).await;
        let pinned = pinned.map_err(|error| failure(&error))?;
        pin.name = pinned.name;
        match PublishedVersion::open(host, &pinned.manifest).await {
            Ok(version) => {
                let number = version.version();
                tracing::info!(%image, version = %number, pin = %pin.name, "pinned");
                if crate::mutant::is("a pin is released while its version is served") {
                    // The variant does not look.
                    let _ = pin.release().await;
                }
                Ok(Self {
                    version,
                    pin: Arc::new(pin),
                })
            }
            Err(error) => {
                if let Err(error) = pin.release().await {
                    tracing::warn!(%image, pin = %pin.name, %error, "the pin stays");
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
