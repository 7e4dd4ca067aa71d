//! `mvps image takeover IMAGE`: takes an image from the active writer, which is gone or is to be
//! fenced, and gives up what that server did not checkpoint (protocol §2).
//!
//! Invariant: one call fences at most one tenure, the one it found active. If another got in
//! meanwhile, that is the operator's to decide.

use crate::env::{Clock, Entropy};
use crate::format::manifest::{ImageState, Manifest};
use crate::ids::{ImageId, Tenure};
use crate::protocol::{
    ManifestStore, Outcome, PublishedBy, compose_takeover, next_tenure, publish,
};

use super::report::ImageReport;
use super::{AdminError, named};

/// How many publications by others may come in between. Each is one checkpoint or snapshot that
/// landed within one request's time.
const TAKEOVER_ATTEMPTS_MAX: usize = 64;

/// What a takeover found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome", content = "image")]
pub enum TakeoverOutcome {
    /// The image is clean now; what was given up is in its newest takeover.
    TakenOver(ImageReport),
    /// Nobody was the active writer: there was nothing to take.
    WasClean(ImageReport),
}

/// Publishes a clean manifest with a new epoch and the takeover on record.
///
/// # Errors
/// [`AdminError`].
pub async fn takeover(
    manifests: &ManifestStore,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    image: &ImageId,
) -> Result<TakeoverOutcome, AdminError> {
    let found = manifests.newest(image).await?;
    let mut base = found.ok_or_else(|| AdminError::NoSuchImage {
        image: image.clone(),
    })?;
    let fenced = base.tenure;
    for _ in 0..TAKEOVER_ATTEMPTS_MAX {
        if let Some(end) = judge_takeover(&base, fenced) {
            return end;
        }
        let tenure = next_tenure(Some(&base), entropy);
        let body = compose_takeover(&base, tenure, clock.wall());
        base = match publish(manifests, &body, PublishedBy::Server).await? {
            Outcome::Counted(newest) | Outcome::Merge(newest) | Outcome::Fenced(newest) => newest,
        };
    }
    Err(AdminError::Contended {
        image: image.clone(),
    })
}

/// What the newest manifest says of the wish to fence `fenced`: `None` if it is the active writer.
fn judge_takeover(
    newest: &Manifest,
    fenced: Tenure,
) -> Option<Result<TakeoverOutcome, AdminError>> {
    let image = newest.image.clone();
    let on_record = newest.takeovers.iter().any(|record| record.from == fenced);
    match newest.state {
        ImageState::Tombstone | ImageState::Abandoned => Some(Err(AdminError::Deleted { image })),
        // Also if somebody opened the image since.
        _ if on_record => Some(Ok(TakeoverOutcome::TakenOver(ImageReport::of(newest)))),
        ImageState::Clean => Some(Ok(TakeoverOutcome::WasClean(ImageReport::of(newest)))),
        ImageState::Active if newest.tenure == fenced => None,
        ImageState::Active => Some(Err(AdminError::OwnerChanged {
            image,
            owner: named(&newest.owner),
        })),
    }
}
