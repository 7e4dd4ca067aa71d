//! How an operator publishes: composes onto the newest manifest, publishes, re-checks, and composes
//! again onto whatever others published in between.
//!
//! Invariant: every body carries a fresh random mark, and counts only if the newest manifest,
//! listed afterwards, carries it too. What did not count never will.

use crate::encryption::RootKeys;
use crate::env::{Clock, Entropy, EntropyExt};
use crate::format::manifest::{ImageState, Manifest};
use crate::ids::{ImageId, PublicationId};
use crate::protocol::{ManifestStore, OthersPart, Outcome, PublishedBy, compose_by_other, publish};

use super::AdminError;

/// How many publications by others may come in between. Each is one checkpoint or snapshot that
/// landed within one request's time.
const ATTEMPTS_MAX: usize = 64;

/// With what an operator works. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Admin<'a> {
    /// The manifests.
    pub manifests: &'a ManifestStore,
    /// For `published_at` and the like.
    pub clock: &'a dyn Clock,
    /// For ids and keys.
    pub entropy: &'a dyn Entropy,
    /// What data keys are wrapped with: needed to clone and to rekey images that are encrypted.
    pub root_keys: &'a RootKeys,
}

/// What to do about a newest manifest.
pub(super) enum Step<T> {
    /// It is as it should be.
    Done(T),
    /// Publish this body, which carries the mark that was given out.
    Publish(Box<Manifest>, T),
}

impl Admin<'_> {
    /// The newest manifest of an image that exists.
    pub(super) async fn newest_alive(&self, image: &ImageId) -> Result<Manifest, AdminError> {
        let newest = found(self.manifests.newest(image).await?, image)?;
        require_alive(&newest)?;
        Ok(newest)
    }

    pub(super) fn mark(&self) -> PublicationId {
        PublicationId(self.entropy.u128())
    }

    /// Publishes what `step` makes of the newest manifest, until that counts or `step` says that
    /// nothing is to be done. Returns the newest manifest then. The manifest that `step` sees is of
    /// an image that exists.
    pub(super) async fn publish<T>(
        &self,
        image: &ImageId,
        mut step: impl FnMut(&Manifest, PublicationId) -> Result<Step<T>, AdminError>,
    ) -> Result<(Manifest, T), AdminError> {
        let of_living = |newest: &Manifest, mark| {
            require_alive(newest)?;
            step(newest, mark)
        };
        self.publish_onto_any(image, of_living).await
    }

    /// [`Self::publish`], but the image may have been deleted.
    async fn publish_onto_any<T>(
        &self,
        image: &ImageId,
        mut step: impl FnMut(&Manifest, PublicationId) -> Result<Step<T>, AdminError>,
    ) -> Result<(Manifest, T), AdminError> {
        let mut newest = found(self.manifests.newest(image).await?, image)?;
        for _ in 0..ATTEMPTS_MAX {
            let mark = self.mark();
            let (body, result) = match step(&newest, mark)? {
                Step::Done(result) => return Ok((newest, result)),
                Step::Publish(body, result) => (body, result),
            };
            newest = match publish(self.manifests, &body, PublishedBy::Other(mark)).await? {
                Outcome::Counted(newest) => return Ok((newest, result)),
                Outcome::Merge(newest) | Outcome::Fenced(newest) => newest,
            };
        }
        Err(AdminError::Contended {
            image: image.clone(),
        })
    }

    /// [`Self::publish`] of changes to the others' part.
    pub(super) async fn publish_part<T>(
        &self,
        image: &ImageId,
        mut change: impl FnMut(&Manifest, &mut OthersPart) -> Result<T, AdminError>,
    ) -> Result<(Manifest, T), AdminError> {
        let of_living = |newest: &Manifest, part: &mut OthersPart| {
            require_alive(newest)?;
            change(newest, part)
        };
        self.publish_part_of_any(image, of_living).await
    }

    /// [`Self::publish_part`], but the image may have been deleted.
    pub(super) async fn publish_part_of_any<T>(
        &self,
        image: &ImageId,
        mut change: impl FnMut(&Manifest, &mut OthersPart) -> Result<T, AdminError>,
    ) -> Result<(Manifest, T), AdminError> {
        let step = |newest: &Manifest, mark| {
            let before = OthersPart::of(newest);
            let mut part = before.clone();
            let result = change(newest, &mut part)?;
            if part == before {
                return Ok(Step::Done(result));
            }
            let body = compose_by_other(newest, mark, part, self.clock.wall())?;
            Ok(Step::Publish(Box::new(body), result))
        };
        self.publish_onto_any(image, step).await
    }
}

fn found(newest: Option<Manifest>, image: &ImageId) -> Result<Manifest, AdminError> {
    newest.ok_or_else(|| AdminError::NoSuchImage {
        image: image.clone(),
    })
}

fn require_alive(newest: &Manifest) -> Result<(), AdminError> {
    match newest.state {
        ImageState::Tombstone | ImageState::Abandoned => Err(AdminError::Deleted {
            image: newest.image.clone(),
        }),
        ImageState::Active | ImageState::Clean => Ok(()),
    }
}
