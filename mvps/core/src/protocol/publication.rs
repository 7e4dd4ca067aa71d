//! Publishes a composed manifest and finds out whether that counted (protocol §3.1–3.3).
//!
//! Architecture invariants:
//! - A publication counts only if the newest manifest, listed after the create, is it or descends
//!   from it. What the create answered is not evidence: a name that the collector freed can be
//!   created again by a request that slept, and a reply can be lost.
//! - A body whose fate is unknown is published again with the same bytes; nothing else is
//!   published by that publisher before its fate is known.
//!
//! Must never: compose (see `compose`), retry by composing another body, or delete.

use crate::env::StoreError;
use crate::format::manifest::Manifest;
use crate::ids::{PublicationId, Version};

use super::manifests::{ManifestError, ManifestStore};

/// Who publishes, and so by what it recognises its own publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishedBy {
    /// The tenure's own server (or whoever begins the tenure): by the tenure's counter.
    Server,
    /// Anybody else: by the random id that it added.
    Other(PublicationId),
}

/// What the newest manifest says about a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The newest manifest is this body or descends from it, for ever.
    Counted,
    /// It did not happen and never will; the tenure is still the active writer. Compose again, with
    /// the next counter, onto the newest.
    Merge,
    /// It did not happen and never will, or happened under a tenure that is over.
    Fenced,
    /// The newest manifest is older than this body: it may still land.
    Unresolved,
}

/// Judges `body` by the newest manifest. Every publisher preserves the counter and the ids of what
/// it builds on, and only a manifest that builds on the newest can become the newest, so the
/// newest carries the marks of everything that ever counted.
#[must_use]
pub fn judge(newest: &Manifest, body: &Manifest, publisher: PublishedBy) -> Verdict {
    if newest.version < body.version {
        return Verdict::Unresolved;
    }
    let same_number = newest.tenure.epoch == body.tenure.epoch;
    let same_tenure = newest.tenure == body.tenure
        || same_number && crate::mutant::is("an epoch's number taken for its identity");
    let counted = match publisher {
        PublishedBy::Server => same_tenure && newest.publication >= body.publication,
        PublishedBy::Other(id) => newest.others.contains(&id),
    };
    match (counted, same_tenure) {
        (true, _) => Verdict::Counted,
        (false, true) => Verdict::Merge,
        (false, false) if crate::mutant::is("no epoch check") => Verdict::Merge,
        (false, false) => Verdict::Fenced,
    }
}

/// What became of a publication, with the newest manifest: the base of whatever comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It counts.
    Counted(Manifest),
    /// Others were in the way: compose again onto this, with the next counter.
    Merge(Manifest),
    /// Another tenure is, or was, the active writer after this one.
    Fenced(Manifest),
}

impl Outcome {
    /// The newest manifest.
    #[must_use]
    pub fn newest(&self) -> &Manifest {
        match self {
            Self::Counted(newest) | Self::Merge(newest) | Self::Fenced(newest) => newest,
        }
    }
}

/// Why the fate of a publication is not known, by what the caller does next. Whatever it is, the
/// body may have been published or be published later: publish **the same body** again before
/// anything else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The create failed with its fate unknown (or for good: credentials, a wrong request).
    #[error("cannot publish version {version}: {source}")]
    Create {
        /// The version.
        version: Version,
        /// What the store said.
        source: StoreError,
    },
    /// It was created, but the newest manifest could not be read.
    #[error("published version {version}, but cannot confirm it: {source}")]
    Recheck {
        /// The version.
        version: Version,
        /// Why.
        source: ManifestError,
    },
    /// The listing after the create does not show it nor anything newer. Somebody deleted the
    /// image's manifests by hand, or the store's listings are stale: it cannot be used.
    #[error(
        "version {version} was created but the store lists nothing as new as that: its listings \
         are not consistent, or the image's manifests were deleted by hand"
    )]
    NotListed {
        /// The version.
        version: Version,
    },
}

/// Creates `body` under its version's name and judges it by the newest manifest afterwards.
///
/// Call it again with the same body after an error or after dropping the call; it is idempotent.
///
/// # Errors
/// [`PublishError`] if the body's fate stays unknown.
pub async fn publish(
    manifests: &ManifestStore,
    body: &Manifest,
    publisher: PublishedBy,
) -> Result<Outcome, PublishError> {
    let version = body.version;
    let created = manifests.create(body).await;
    let taken = matches!(created, Err(StoreError::AlreadyExists { .. }));
    match created {
        Ok(()) if crate::mutant::is("no publish re-check") => {
            return Ok(Outcome::Counted(body.clone()));
        }
        Ok(()) | Err(StoreError::AlreadyExists { .. }) => {}
        Err(source) => return Err(PublishError::Create { version, source }),
    }
    let newest = manifests
        .newest(&body.image)
        .await
        .map_err(|source| PublishError::Recheck { version, source })?
        .ok_or(PublishError::NotListed { version })?;
    if taken && crate::mutant::is("lost reply taken for failure") && newest == *body {
        return Ok(Outcome::Fenced(newest));
    }
    match judge(&newest, body, publisher) {
        Verdict::Counted => Ok(Outcome::Counted(newest)),
        Verdict::Merge => Ok(Outcome::Merge(newest)),
        Verdict::Fenced => Ok(Outcome::Fenced(newest)),
        Verdict::Unresolved => Err(PublishError::NotListed { version }),
    }
}
