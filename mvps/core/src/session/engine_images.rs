//! The engine as a server sees it: images that are opened from one [`Host`].

use super::images::{ImageFacts, Images, OpenFailure};
use super::served::ServedImage;
use super::version_export;
use super::version_export::VersionExport;
use crate::admin::ReaderLife;
use crate::engine::{EngineConfig, Host, Image, OpenError};
use crate::format::manifest::Manifest;
use crate::ids::ImageId;
use crate::protocol::{Intent, ManifestError, ManifestStore, OpeningRequest, RefusalReason, Since};
use crate::reachability::is_tombstone;
use crate::token::{Grant, Shown};
use crate::{admin, engine, protocol};

/// All images of one host.
pub struct EngineImages {
    host: Host,
    config: EngineConfig,
    manifests: ManifestStore,
    reader: Option<ReaderLife>,
}

impl EngineImages {
    /// Images of `host`, opened with `config`.
    #[must_use]
    pub fn new(host: Host, config: EngineConfig) -> Self {
        let manifests = ManifestStore::new(host.store.clone());
        Self {
            host,
            config,
            manifests,
            reader: None,
        }
    }

    /// The same, of a server that can serve published versions, too: it pins them in the name of
    /// `reader`.
    #[must_use]
    pub fn with_reader(mut self, reader: ReaderLife) -> Self {
        self.reader = Some(reader);
        self
    }
}

impl EngineImages {
    async fn newest(&self, image: &ImageId) -> Result<Option<Manifest>, OpenFailure> {
        let newest = self.manifests.newest(image).await.map_err(|error| {
            let reason = error.to_string();
            OpenFailure { reason, told: None }
        })?;
        Ok(newest.filter(|manifest| !is_tombstone(manifest)))
    }

    async fn open_live(&self, grant: &Grant) -> Result<Image, OpenFailure> {
        let page_size = match grant.page_size {
            Some(page_size) => page_size,
            // The token leaves it to the image, if there is one.
            None => match self.newest(&grant.image).await? {
                Some(newest) => newest.page_size,
                None => grant.page_size_of_new(),
            },
        };
        let intent = if grant.read_only {
            Intent::ExistingOnly
        } else {
            Intent::CreateOrGrow
        };
        let request = OpeningRequest {
            image: grant.image.clone(),
            page_size,
            image_size_bytes: grant.size_bytes,
            intent,
        };
        let opened = engine::open(&self.host, &request, self.config.clone()).await;
        opened.map_err(|error| failure(&error))
    }

    async fn open_version(&self, grant: &Grant) -> Result<VersionExport, OpenFailure> {
        let Some(reader) = &self.reader else {
            let reason = "this server has no name to pin versions with".to_owned();
            return Err(OpenFailure { reason, told: None });
        };
        let host = &self.host;
        VersionExport::open(host, &self.manifests, reader, &grant.image, &grant.shown).await
    }
}

impl Images for EngineImages {
    type Image = ServedImage;

    async fn open(&self, grant: &Grant) -> Result<ServedImage, OpenFailure> {
        match grant.shown {
            Shown::Newest => self.open_live(grant).await.map(ServedImage::Live),
            Shown::Version(_) | Shown::Snapshot(_) => self
                .open_version(grant)
                .await
                .map(|export| ServedImage::Version(Box::new(export))),
        }
    }

    async fn look(&self, grant: &Grant) -> Result<Option<ImageFacts>, OpenFailure> {
        let Some(newest) = self.newest(&grant.image).await? else {
            return Ok(None);
        };
        let shown = match grant.shown {
            Shown::Newest => newest,
            Shown::Version(_) | Shown::Snapshot(_) => {
                let version = admin::resolve(&newest, &grant.shown);
                let version = version.map_err(|error| version_export::failure(&error))?;
                let found = self.manifests.load(&grant.image, version).await;
                found.map_err(|error| version_export::failure(&error.into()))?
            }
        };
        Ok(Some(ImageFacts {
            size_bytes: shown.size_bytes,
            page_size: shown.page_size,
        }))
    }

    async fn retains(&self, image: &ImageId, since: &Since) -> Result<bool, OpenFailure> {
        let found = self.manifests.retained(image, since).await;
        Ok(found.map_err(unreadable)?.is_some())
    }

    async fn list_retained(
        &self,
        image: &ImageId,
        versions_max: usize,
    ) -> Result<Vec<Since>, OpenFailure> {
        let found = self.manifests.list_retained(image, versions_max).await;
        found.map_err(unreadable)
    }
}

fn unreadable(error: ManifestError) -> OpenFailure {
    OpenFailure {
        reason: error.to_string(),
        told: None,
    }
}

/// The client is told what concerns its own request; what concerns the operator is logged.
fn failure(error: &OpenError) -> OpenFailure {
    let told = match error {
        OpenError::Opening(protocol::OpeningError::Refused(refusal)) => match refusal.reason {
            RefusalReason::NoSuchImage | RefusalReason::Deleted => {
                Some("there is no such image, and the token does not create it")
            }
            RefusalReason::OtherPageSize { .. } => {
                Some("the image has another page size than the token says")
            }
            RefusalReason::InvalidSize { .. } => {
                Some("the size is not a multiple of the page size")
            }
            _ => None,
        },
        _ => None,
    };
    OpenFailure {
        reason: error.to_string(),
        told,
    }
}

#[cfg(test)]
mod tests;
