//! What an operator has done to an image that is open here.

use mvps_core::admin;
use mvps_core::encryption::ROOT_KEY_VARIABLE;
use mvps_core::engine::{Host, Image};
use mvps_core::ids::{ImageId, Version};
use mvps_core::protocol::ManifestStore;
use mvps_core::session::{EngineImages, Server};
use mvps_core::token::Shown;

use crate::control::{CheckpointDone, RekeyDone, ResizeDone, RollbackDone};

/// Why a request was not carried out.
pub(super) enum NotDone {
    /// The image is not open here.
    NotOpen(ImageId),
    /// It was tried.
    Failed(String),
}

/// The open images, as an operator changes them.
pub(super) struct ImageOperations {
    server: Server<EngineImages>,
    host: Host,
}

impl ImageOperations {
    /// On the images of `server`.
    pub(super) fn new(server: Server<EngineImages>, host: Host) -> Self {
        Self { server, host }
    }

    /// The image, if this server is its active writer.
    async fn open_here(&self, name: &str) -> Result<Image, NotDone> {
        let wanted = ImageId::parse(name).map_err(failed)?;
        let served = self.server.image(&wanted).await;
        let image = served.and_then(|served| served.live().cloned());
        image.ok_or(NotDone::NotOpen(wanted))
    }

    pub(super) async fn checkpoint(&self, name: &str) -> Result<CheckpointDone, NotDone> {
        let image = self.open_here(name).await?;
        let version = image.checkpoint().await.map_err(failed)?;
        Ok(CheckpointDone {
            image: name.to_owned(),
            version: version.0,
        })
    }

    /// Rolls back. Unless told to discard it, what is not published is published first, so that
    /// the rollback can be undone.
    pub(super) async fn roll_back(
        &self,
        name: &str,
        to: Shown,
        discard_unpublished: bool,
    ) -> Result<RollbackDone, NotDone> {
        let image = self.open_here(name).await?;
        let to_version = self.resolve(image.id(), &to).await?;
        if !discard_unpublished {
            image.checkpoint().await.map_err(failed)?;
        }
        let done = image.roll_back(to_version).await.map_err(failed)?;
        Ok(RollbackDone {
            image: name.to_owned(),
            to_version: to_version.0,
            version: done.version.0,
            undo_version: done.undo_version.0,
            lsn: done.lsn.0,
        })
    }

    async fn resolve(&self, image: &ImageId, to: &Shown) -> Result<Version, NotDone> {
        let manifests = ManifestStore::new(self.host.store.clone());
        let newest = manifests.newest(image).await.map_err(failed)?;
        let gone = || NotDone::Failed(format!("image {image} has no manifest any more"));
        let newest = newest.ok_or_else(gone)?;
        admin::resolve(&newest, to).map_err(failed)
    }

    pub(super) async fn resize(&self, name: &str, size_bytes: u64) -> Result<ResizeDone, NotDone> {
        let image = self.open_here(name).await?;
        let from_bytes = image.size_bytes();
        if size_bytes < from_bytes {
            let error = admin::AdminError::Shrink {
                image: image.id().clone(),
                size_bytes: from_bytes,
                wanted_bytes: size_bytes,
            };
            return Err(failed(error));
        }
        image.grow(size_bytes).await.map_err(failed)?;
        Ok(ResizeDone {
            image: name.to_owned(),
            from_bytes,
            size_bytes: image.size_bytes(),
        })
    }

    /// Wraps the image's data keys with this server's first root key, which is to be `wanted`: so
    /// the server can still open the image when it does the next time.
    pub(super) async fn rekey(
        &self,
        name: &str,
        wanted: Option<&str>,
    ) -> Result<RekeyDone, NotDone> {
        let roots = &self.host.root_keys;
        let first = roots.first().map(|key| key.id().to_string());
        if wanted.is_some() && first.as_deref() != wanted {
            return Err(NotDone::Failed(format!(
                "the first root key of the server that has {name} is {}: start it with the \
                 new key first in {ROOT_KEY_VARIABLE} and the old one behind it, then rekey",
                first.as_deref().unwrap_or("none")
            )));
        }
        let image = self.open_here(name).await?;
        let environment = &self.host.environment;
        let manifests = ManifestStore::new(self.host.store.clone());
        let admin = admin::Admin {
            manifests: &manifests,
            clock: &*environment.clock,
            entropy: &*environment.entropy,
            root_keys: roots,
        };
        let done = admin::rekey(&admin, image.id()).await.map_err(failed)?;
        Ok(RekeyDone {
            image: done.image,
            version: done.version,
            root_key: done.root_key,
            data_keys: done.data_keys,
            replaced: done.replaced,
        })
    }
}

fn failed(error: impl std::fmt::Display) -> NotDone {
    NotDone::Failed(error.to_string())
}
