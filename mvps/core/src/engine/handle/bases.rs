//! Earlier states of an image that content is compared with.
//!
//! Job: open them and keep those that were used last, for all connections together: the map of a
//! large image takes megabytes, and every connection may compare with several.
//!
//! Invariant: at most [`KEPT_MAX`] are kept, and [`AT_ONCE_MAX`] beside them are in use, whatever
//! is asked. Must never: take a version that is not retained for one that is; see
//! [`ManifestStore::retained`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::engine::error::EngineError;
use crate::engine::host::Host;
use crate::engine::read::{Base, Map};
use crate::ids::{ImageId, Version};
use crate::protocol::{ManifestStore, Since};

/// States of one image that are kept: as many as a connection may follow.
const KEPT_MAX: usize = crate::nbd::CONTEXTS_MAX;

/// Comparisons of one image at a time. Others wait.
const AT_ONCE_MAX: usize = 8;

/// Opens earlier states of one image and keeps those that were used last.
pub(in crate::engine) struct Bases {
    /// The one used last is the last.
    kept: Mutex<VecDeque<(Version, Map)>>,
    permits: Arc<Semaphore>,
}

impl Default for Bases {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            permits: Arc::new(Semaphore::new(AT_ONCE_MAX)),
        }
    }
}

impl Bases {
    /// The version of `image` that `since` means.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] if it is not retained, otherwise as for a read.
    pub(super) async fn find(
        &self,
        host: &Host,
        image: &ImageId,
        since: &Since,
    ) -> Result<Version, EngineError> {
        let _permit = self.permit().await;
        let (version, map) = open(host, image, since).await?;
        self.keep(version, map);
        Ok(version)
    }

    /// The state of `image` in a version that was found.
    ///
    /// # Errors
    /// As for [`Self::find`]: it may have gone since.
    pub(super) async fn get(
        &self,
        host: &Host,
        image: &ImageId,
        version: Version,
    ) -> Result<Base, EngineError> {
        let permit = self.permit().await;
        let map = match self.take_kept(version) {
            Some(map) => map,
            None => open(host, image, &Since::Version(version)).await?.1,
        };
        self.keep(version, map.clone());
        Ok(Base {
            map,
            _permit: permit,
        })
    }

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(Version, Map)>> {
        // Nothing is left half done by a panic.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_kept(&self, version: Version) -> Option<Map> {
        let mut kept = self.kept();
        let position = kept.iter().position(|(have, _)| *have == version)?;
        kept.remove(position).map(|(_, map)| map)
    }

    fn keep(&self, version: Version, map: Map) {
        let mut kept = self.kept();
        kept.retain(|(have, _)| *have != version);
        kept.push_back((version, map));
        if kept.len() > KEPT_MAX {
            kept.pop_front();
        }
    }
}

async fn open(host: &Host, image: &ImageId, since: &Since) -> Result<(Version, Map), EngineError> {
    let manifests = ManifestStore::new(host.store.clone());
    let Some(manifest) = manifests.retained(image, since).await? else {
        return Err(EngineError::Invalid {
            reason: "the version to compare with is not retained any more",
        });
    };
    let map = Map::open(&manifest, Arc::clone(&host.leaves)).await?;
    Ok((manifest.version, map))
}
