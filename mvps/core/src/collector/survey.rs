//! Reads what an image retains.
//!
//! Invariant: the newest manifest is read before the versions that it retains. If one of those is
//! missing, another collector has forgotten it meanwhile, and everything is read again; if it is
//! missing although the newest manifest is still the newest, that is damage.
//!
//! Must never: take an unreadable manifest for one that retains nothing.

use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt};

use super::expiry::VersionFacts;
use crate::format::manifest::Manifest;
use crate::ids::{ImageId, Version};
use crate::mutant;
use crate::protocol::{ManifestError, ManifestStore};
use crate::reachability::Reachable;

/// Manifests read at the same time: each may be a megabyte.
const READS_IN_FLIGHT_MAX: usize = 16;

/// How often the newest manifest may change under a survey in a way that takes retained versions
/// with it. Each time, somebody published an expiry and executed it within the survey's time.
const SURVEYS_MAX: usize = 16;

/// Why it is not known what an image retains, by what the caller does next: nothing to that image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SurveyError {
    /// A manifest cannot be read, now or ever.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A retained version has no manifest: somebody deleted it by hand, or the store lost it.
    #[error(
        "version {version} of image {image} is retained, but has no manifest: it was deleted by \
         hand or lost by the object store"
    )]
    Lost {
        /// The image.
        image: ImageId,
        /// The version.
        version: Version,
    },
    /// The image's history changes faster than it can be read. Try again.
    #[error("the history of image {image} changes faster than it can be read")]
    Changing {
        /// The image.
        image: ImageId,
    },
}

/// What reading retained versions came to.
enum Attempt<T> {
    Done(T),
    /// This version is not there.
    Missing(Version),
}

/// What an image keeps alive, by the manifest that was the newest when it was read.
#[derive(Debug, Clone)]
pub struct Survey {
    /// That manifest.
    pub newest: Manifest,
    /// What it keeps alive; complete.
    pub reachable: Reachable,
}

/// Reads `image` whole: two requests and one for each retained version. `None` if it has no
/// manifest at all.
///
/// # Errors
/// [`SurveyError`].
pub async fn survey(
    manifests: &ManifestStore,
    image: &ImageId,
) -> Result<Option<Survey>, SurveyError> {
    for _ in 0..SURVEYS_MAX {
        let Some(newest) = manifests.newest(image).await? else {
            return Ok(None);
        };
        match complete(manifests, &newest).await? {
            Attempt::Done(reachable) => return Ok(Some(Survey { newest, reachable })),
            Attempt::Missing(version) => still_newest(manifests, &newest, version).await?,
        }
    }
    Err(SurveyError::Changing {
        image: image.clone(),
    })
}

/// What `newest` keeps alive, which may be a manifest that nobody published (a dry run's).
///
/// # Errors
/// [`SurveyError`], also if the newest manifest is another by now and took versions with it.
pub async fn reachable_from(
    manifests: &ManifestStore,
    newest: &Manifest,
) -> Result<Reachable, SurveyError> {
    match complete(manifests, newest).await? {
        Attempt::Done(reachable) => Ok(reachable),
        Attempt::Missing(_) => Err(SurveyError::Changing {
            image: newest.image.clone(),
        }),
    }
}

/// What a policy has to know of every version from the oldest retained one to the newest.
///
/// # Errors
/// [`SurveyError`].
pub async fn facts(
    manifests: &ManifestStore,
    newest: &Manifest,
) -> Result<Vec<VersionFacts>, SurveyError> {
    let versions: Vec<Version> = (newest.oldest_retained.0..newest.version.0)
        .map(Version)
        .collect();
    let mut facts = Vec::with_capacity(versions.len() + 1);
    let read = each(manifests, newest, versions, |manifest| {
        facts.push(VersionFacts::of(manifest));
    });
    if let Attempt::Missing(version) = read.await? {
        still_newest(manifests, newest, version).await?;
        return Err(SurveyError::Changing {
            image: newest.image.clone(),
        });
    }
    facts.push(VersionFacts::of(newest));
    Ok(facts)
}

async fn complete(
    manifests: &ManifestStore,
    newest: &Manifest,
) -> Result<Attempt<Reachable>, SurveyError> {
    let mut reachable = Reachable::of(newest);
    let unread: Vec<Version> = reachable.unread().collect();
    let read = each(manifests, newest, unread, |manifest| {
        reachable.take_in(manifest);
    });
    if let Attempt::Missing(version) = read.await? {
        return Ok(Attempt::Missing(version));
    }
    if mutant::is("collection ignores unreadable manifests") {
        let unread: Vec<Version> = reachable.unread().collect();
        unread.into_iter().for_each(|it| reachable.leave_out(it));
    }
    Ok(Attempt::Done(reachable))
}

/// Reads versions in order, several at a time.
async fn each(
    manifests: &ManifestStore,
    newest: &Manifest,
    versions: Vec<Version>,
    mut take: impl FnMut(&Manifest),
) -> Result<Attempt<()>, SurveyError> {
    let mut reads = stream::iter(versions)
        .map(|version| {
            let read = async move { (version, manifests.load(&newest.image, version).await) };
            read.boxed()
        })
        .buffered(READS_IN_FLIGHT_MAX);
    while let Some((version, read)) = reads.next().await {
        match read {
            Ok(manifest) => take(&manifest),
            Err(ManifestError::NoSuchVersion { .. }) => return Ok(Attempt::Missing(version)),
            Err(ManifestError::Corrupt { .. } | ManifestError::NewerFormat { .. })
                if mutant::is("collection ignores unreadable manifests") => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Attempt::Done(()))
}

/// A version is missing that `newest` retains: fine if `newest` is history by now.
async fn still_newest(
    manifests: &ManifestStore,
    newest: &Manifest,
    missing: Version,
) -> Result<(), SurveyError> {
    let now = manifests.newest_version(&newest.image).await?;
    if now.is_some_and(|now| now > newest.version) {
        return Ok(());
    }
    Err(SurveyError::Lost {
        image: newest.image.clone(),
        version: missing,
    })
}
