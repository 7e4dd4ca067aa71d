//! Rollback of an open image as its caller sees it (protocol §5.5): the version is found and its map
//! opened before anything is stopped, so that a version that is gone or damaged disturbs nobody.

use std::sync::Arc;

use super::image::Image;
use crate::engine::error::{EngineError, VERSION_GONE};
use crate::engine::read::Map;
use crate::engine::reply::RolledBack;
use crate::engine::request::{Event, RollbackRequest};
use crate::ids::Version;
use crate::protocol::{ManifestError, ManifestStore, is_retained};

impl Image {
    /// Makes the image what it was in `version`, in a new version. Everything that was committed
    /// since goes, buffered or published; to be able to undo that, checkpoint first. Open
    /// transactions are aborted, connections stay. Waits while the object store is unavailable.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] if the image does not keep that version, [`EngineError::Corrupt`]
    /// or [`EngineError::Unreadable`] if it cannot be read: nothing happened then. Otherwise as for
    /// a checkpoint.
    pub async fn roll_back(&self, version: Version) -> Result<RolledBack, EngineError> {
        let host = &self.shared.host;
        let manifests = ManifestStore::new(host.store.clone());
        let newest = manifests
            .newest(self.id())
            .await
            .map_err(EngineError::unreadable)?;
        if !newest.is_some_and(|newest| is_retained(&newest, version)) {
            return Err(VERSION_GONE);
        }
        let to = match manifests.load(self.id(), version).await {
            Err(ManifestError::NoSuchVersion { .. }) => return Err(VERSION_GONE),
            other => other.map_err(EngineError::unreadable)?,
        };
        let map = match Map::open(&to, Arc::clone(&host.leaves)).await {
            Ok(map) => map,
            Err(error) => {
                // Its end may have been published since, and its objects deleted.
                let newest = manifests
                    .newest(self.id())
                    .await
                    .map_err(EngineError::unreadable)?;
                let retained = newest.is_some_and(|newest| is_retained(&newest, version));
                return Err(if retained { error.into() } else { VERSION_GONE });
            }
        };
        let to = Box::new(to);
        self.ask(|reply| {
            let request = RollbackRequest { to, map, reply };
            Event::Rollback(Box::new(request))
        })
        .await
    }
}
