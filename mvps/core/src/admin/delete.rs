//! `mvps image delete`: publishes a tombstone, which stays for ever (protocol §5.3).
//!
//! Invariant: pins go on in the tombstone, so what clones and readers need is kept.

use crate::format::manifest::{ImageState, Manifest};
use crate::ids::ImageId;
use crate::protocol::{
    ManifestStore, Outcome, PublishedBy, compose_tombstone, next_tenure, publish,
};

use super::report::holder;
use super::{Admin, AdminError, named};

/// How many publications by others may come in between.
const ATTEMPTS_MAX: usize = 64;

/// An image that was deleted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Deleted {
    /// Its name.
    pub image: String,
    /// The tombstone's version.
    pub version: u64,
    /// Who still pins what it held: that is kept for them.
    pub pinned_by: Vec<String>,
    /// Snapshots that went with it.
    pub snapshots: Vec<String>,
    /// The server that was the active writer, which this fenced; what it had not published is given
    /// up.
    pub fenced: Option<String>,
}

/// Deletes an image. With `force` also one that has an active writer: its server is fenced and what
/// that did not publish is given up.
///
/// # Errors
/// [`AdminError`].
pub async fn delete(
    admin: &Admin<'_>,
    image: &ImageId,
    force: bool,
) -> Result<Deleted, AdminError> {
    let mut newest = admin.newest_alive(image).await?;
    let incarnation = newest.incarnation;
    for _ in 0..ATTEMPTS_MAX {
        if newest.state == ImageState::Active && !force {
            return Err(AdminError::NotClean {
                image: image.clone(),
                owner: named(&newest.owner),
                advice: "let it close the image first (it does when no client is attached for a \
                         while), or give up what it did not publish with --force",
            });
        }
        let tenure = next_tenure(Some(&newest), admin.entropy);
        let mark = admin.mark();
        let body = compose_tombstone(&newest, tenure, mark, admin.clock.wall());
        let outcome = publish_tombstone(admin.manifests, &body, mark).await?;
        match outcome {
            Outcome::Counted(_) => return Ok(deleted(&newest, &body)),
            Outcome::Merge(next) | Outcome::Fenced(next) => newest = next,
        }
        // Somebody else deleted it, and may have made another of its name.
        let gone = matches!(newest.state, ImageState::Tombstone | ImageState::Abandoned);
        if gone || newest.incarnation != incarnation {
            let image = image.clone();
            return Err(AdminError::Deleted { image });
        }
    }
    Err(AdminError::Contended {
        image: image.clone(),
    })
}

async fn publish_tombstone(
    manifests: &ManifestStore,
    body: &Manifest,
    mark: crate::ids::PublicationId,
) -> Result<Outcome, AdminError> {
    Ok(publish(manifests, body, PublishedBy::Other(mark)).await?)
}

fn deleted(before: &Manifest, tombstone: &Manifest) -> Deleted {
    let active = before.state == ImageState::Active;
    let snapshots = before.snapshots.iter();
    tracing::info!(image = %before.image, version = %tombstone.version, "deleted");
    Deleted {
        image: before.image.to_string(),
        version: tombstone.version.0,
        pinned_by: before.pins.iter().map(|pin| holder(&pin.holder)).collect(),
        snapshots: snapshots.map(|snapshot| snapshot.name.clone()).collect(),
        fenced: active.then(|| named(&before.owner)),
    }
}
