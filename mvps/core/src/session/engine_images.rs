//! The engine as a server sees it: images that are opened from one [`Host`].

use super::images::{ImageFacts, Images, OpenFailure, OpenImage};
use crate::engine::protocol::{self, ManifestStore, RefusalReason};
use crate::engine::{
    self, Attachment, EngineConfig, EngineError, Host, Image, Intent, OpenError, OpeningRequest,
};
use crate::format::manifest::Office;
use crate::ids::{ImageId, PageSize, Version};
use crate::token::Grant;

impl OpenImage for Image {
    type Disk = Attachment;

    fn page_size(&self) -> PageSize {
        self.page_size()
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes()
    }

    fn attach(&self) -> Attachment {
        self.attach()
    }

    fn grow(&self, size_bytes: u64) -> impl Future<Output = Result<(), EngineError>> + Send {
        self.grow(size_bytes)
    }

    fn checkpoint(&self) -> impl Future<Output = Result<Version, EngineError>> + Send {
        self.checkpoint()
    }

    fn close(&self) -> impl Future<Output = Result<(), EngineError>> + Send {
        self.close()
    }
}

/// All images of one host.
pub struct EngineImages {
    host: Host,
    config: EngineConfig,
    manifests: ManifestStore,
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
        }
    }
}

impl Images for EngineImages {
    type Image = Image;

    async fn open(&self, grant: &Grant) -> Result<Image, OpenFailure> {
        let page_size = match grant.page_size {
            Some(page_size) => page_size,
            // The token leaves it to the image, if there is one.
            None => match self.look(&grant.image).await? {
                Some(facts) => facts.page_size,
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

    async fn look(&self, image: &ImageId) -> Result<Option<ImageFacts>, OpenFailure> {
        let newest = self
            .manifests
            .newest(image)
            .await
            .map_err(|error| OpenFailure {
                reason: error.to_string(),
                told: None,
            })?;
        let exists = |office: Office| matches!(office, Office::InOffice | Office::Clean);
        Ok(newest
            .filter(|manifest| exists(manifest.office))
            .map(|manifest| ImageFacts {
                size_bytes: manifest.size_bytes,
                page_size: manifest.page_size,
            }))
    }
}

/// What concerns the client's own request it is told; what concerns the operator is logged.
fn failure(error: &OpenError) -> OpenFailure {
    let told = match error {
        OpenError::Office(protocol::OpenError::Refused(refusal)) => match refusal.reason {
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
