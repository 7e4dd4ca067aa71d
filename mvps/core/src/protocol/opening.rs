//! Opens an image with a locked and recovered buffer store: the executing part of protocol §2.
//!
//! Invariants:
//! - before a tenure is published, the buffer store knows it as pending, synced, so that a crash
//!   at any later point finds its way back in;
//! - a tenure exists once its open publication passed the re-check, and only then is it confirmed.
//!
//! Must never: replay, drop or change a record of the buffer store.

use bytes::Bytes;

use crate::encryption::{ImageKeys, KeyError, RootKeys, WrappedDataKey};
use crate::env::{BufferError, Clock, Entropy, EntropyExt, Moment, Recovered};
use crate::format::buffer_metadata::{
    BufferMetadata, MapDigest, OwnPublication, PENDING_TENURES_MAX,
};
use crate::format::codec::FormatError;
use crate::format::manifest::Manifest;
use crate::ids::{BufferStoreId, Generation, ImageId, Incarnation, Lsn};

use super::compose::{NewImage, compose_create, compose_open, next_tenure};
use super::manifests::{ManifestError, ManifestStore};
use super::opening_decision::{BufferState, Decision, OpeningRequest, Refusal, decide_opening};
use super::publication::{Outcome, PublishError, PublishedBy, publish};

/// How many openers may get in first before an opening gives up. Each loss means that somebody
/// else made progress; a fleet that fights over one image is told so.
pub const OPEN_ATTEMPTS_MAX: usize = 16;

/// Who opens, with what.
#[derive(Clone, Copy)]
pub struct Opener<'a> {
    /// The manifests.
    pub manifests: &'a ManifestStore,
    /// For `published_at` and for the moment of the first confirmation.
    pub clock: &'a dyn Clock,
    /// For ids.
    pub entropy: &'a dyn Entropy,
    /// Host and process, for messages to operators.
    pub owner: &'a str,
    /// For new images; an existing one is opened only if they open its data keys.
    pub root_keys: &'a RootKeys,
}

/// Why an image was not opened, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum OpeningError {
    /// The operator has to act; the text says how.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The newest manifest cannot be read (now).
    #[error("cannot read the image's manifest: {0}")]
    Manifest(#[from] ManifestError),
    /// The open manifest could not be published (now). Opening again is safe: it takes another
    /// tenure, and the buffer store remembers this one.
    #[error("cannot become the active writer: {0}")]
    Publish(#[from] PublishError),
    /// The image's data keys cannot be had. Nothing was published.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The buffer store failed.
    #[error(transparent)]
    Buffer(#[from] BufferError),
    /// The buffer store's record of itself cannot be read.
    #[error("the buffer store {location} does not know whose it is: {reason}")]
    Metadata {
        /// Where it is.
        location: String,
        /// What is wrong.
        reason: FormatError,
    },
    /// Other openers got in first, time after time.
    #[error(
        "{OPEN_ATTEMPTS_MAX} other openers of this image got in first: two servers fight over it"
    )]
    Contended,
}

impl OpeningError {
    /// The same call may succeed later without anybody's help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        use crate::env::StoreError::Unavailable;
        matches!(
            self,
            Self::Manifest(ManifestError::Store(Unavailable { .. }))
                | Self::Publish(
                    PublishError::Create {
                        source: Unavailable { .. },
                        ..
                    } | PublishError::Recheck {
                        source: ManifestError::Store(Unavailable { .. }),
                        ..
                    }
                )
        )
    }
}

/// An image whose active writer this server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The newest manifest: this tenure's open publication, or one that others built on it.
    pub manifest: Manifest,
    /// The buffer store's record of itself, as it is stored now.
    pub metadata: BufferMetadata,
    /// The next commit's LSN is the one after this.
    pub last_lsn: Lsn,
    /// The tenure was active at this moment or later.
    pub confirmed_at: Moment,
    /// Generations whose every record is in the manifest: drop them, then serve. The last
    /// generation of the buffer store is the active one: seal it first if it is among these.
    pub covered: Vec<Generation>,
    /// The image was made by this opening.
    pub created: bool,
}

/// What a buffer store notes of a publication of its own that counted.
#[must_use]
pub fn own_publication(manifest: &Manifest) -> OwnPublication {
    OwnPublication {
        version: manifest.version,
        lsn: manifest.lsn,
        map: MapDigest::of(manifest),
    }
}

/// Whether a recovered buffer store holds no page and no range record.
#[must_use]
pub fn is_drained(recovered: &Recovered) -> bool {
    let mut generations = recovered.generations.iter();
    generations.all(|generation| generation.records.is_empty())
}

/// The record of itself of a recovered buffer store; a new one where there is none.
///
/// # Errors
/// [`OpeningError::Metadata`].
pub fn recovered_metadata(
    recovered: &Recovered,
    image: &ImageId,
    location: &str,
    entropy: &dyn Entropy,
) -> Result<BufferMetadata, OpeningError> {
    match &recovered.metadata {
        Some(bytes) => {
            BufferMetadata::decode(image, bytes).map_err(|reason| OpeningError::Metadata {
                location: location.to_owned(),
                reason,
            })
        }
        None => Ok(BufferMetadata {
            buffer_store: BufferStoreId(entropy.u128()),
            image: image.clone(),
            incarnation: None,
            confirmed: None,
            pending: Vec::new(),
            last_lsn: Lsn(0),
            published: None,
        }),
    }
}

/// Opens or creates an image. `location` is where the buffer store is, for the operator.
/// `recovered` keeps its metadata up to date, so that after an error, or after dropping the call,
/// the same value can be opened with again.
///
/// # Errors
/// [`OpeningError`]. The buffer store's records are untouched then.
pub async fn open_image(
    opener: &Opener<'_>,
    recovered: &mut Recovered,
    location: &str,
    request: &OpeningRequest,
) -> Result<Opened, OpeningError> {
    let mut activation = Activation::begin(opener, recovered, &request.image, location)?;
    for _ in 0..OPEN_ATTEMPTS_MAX {
        let newest = opener.manifests.newest(&request.image).await?;
        let decision = decide_opening(newest.as_ref(), &activation.buffer(), request);
        let body = match (decision, &newest) {
            (Decision::Refuse(refusal), _) => return Err(OpeningError::Refused(refusal)),
            (Decision::Open { size_bytes }, Some(base)) => {
                // Before anybody is fenced.
                usable_keys(opener.root_keys, base)?;
                activation.compose_open(base, size_bytes)
            }
            (Decision::Create { size_bytes }, base) => {
                let (image, incarnation) = (&request.image, Incarnation(opener.entropy.u128()));
                let (roots, entropy) = (opener.root_keys, opener.entropy);
                let new = NewImage {
                    image: image.clone(),
                    incarnation,
                    page_size: request.page_size,
                    size_bytes,
                    data_key: WrappedDataKey::for_new_image(roots, image, incarnation, entropy),
                };
                activation.compose_create(base.as_ref(), &new)
            }
            (Decision::Open { .. }, None) => unreachable!("what does not exist is not opened"),
        };
        let created = newest.is_none_or(|base| base.incarnation != body.incarnation);
        if let Some(opened) = activation.attempt(body, created).await? {
            return Ok(opened);
        }
    }
    Err(OpeningError::Contended)
}

/// The data keys of `manifest`, if it may be served with these root keys.
pub(crate) fn usable_keys(roots: &RootKeys, manifest: &Manifest) -> Result<ImageKeys, KeyError> {
    let image = &manifest.image;
    let keys = ImageKeys::unwrap(roots, image, &manifest.data_keys)?;
    if roots.require_encryption() && manifest.own_data_key().is_none() {
        let image = image.clone();
        return Err(KeyError::NotEncrypted { image });
    }
    Ok(keys)
}

/// One buffer store's way into state: the steps that opening and adopting share.
pub(crate) struct Activation<'a> {
    opener: &'a Opener<'a>,
    recovered: &'a mut Recovered,
    location: &'a str,
    metadata: BufferMetadata,
}

impl<'a> Activation<'a> {
    pub(crate) fn begin(
        opener: &'a Opener<'a>,
        recovered: &'a mut Recovered,
        image: &ImageId,
        location: &'a str,
    ) -> Result<Self, OpeningError> {
        let metadata = recovered_metadata(recovered, image, location, opener.entropy)?;
        Ok(Self {
            opener,
            recovered,
            location,
            metadata,
        })
    }

    pub(crate) fn buffer(&self) -> BufferState<'_> {
        BufferState {
            metadata: &self.metadata,
            drained: is_drained(self.recovered),
            last_lsn: self.last_lsn(),
            location: self.location,
        }
    }

    fn last_lsn(&self) -> Lsn {
        self.metadata.last_lsn.max(self.recovered.last_lsn)
    }

    pub(crate) fn compose_open(&self, base: &Manifest, size_bytes: u64) -> Manifest {
        let tenure = next_tenure(Some(base), self.opener.entropy);
        let at = self.opener.clock.wall();
        compose_open(base, tenure, self.opener.owner, size_bytes, at)
    }

    fn compose_create(&self, base: Option<&Manifest>, new: &NewImage) -> Manifest {
        let tenure = next_tenure(base, self.opener.entropy);
        let at = self.opener.clock.wall();
        compose_create(base, new, tenure, self.opener.owner, at)
    }

    /// Publishes the manifest that begins a tenure; `None` if it did not count.
    pub(crate) async fn attempt(
        &mut self,
        body: Manifest,
        created: bool,
    ) -> Result<Option<Opened>, OpeningError> {
        self.note_pending(&body).await?;
        // Before the listing that confirms it, so that the confirmation is never dated too late.
        let confirmed_at = self.opener.clock.now();
        match publish(self.opener.manifests, &body, PublishedBy::Server).await? {
            Outcome::Counted(manifest) => {
                self.confirm(&manifest).await?;
                Ok(Some(Opened {
                    covered: covered(self.recovered, manifest.lsn),
                    last_lsn: self.last_lsn(),
                    metadata: self.metadata.clone(),
                    manifest,
                    confirmed_at,
                    created,
                }))
            }
            // Only a confirmed tenure can be fenced; this one never was.
            Outcome::Merge(_) | Outcome::Fenced(_) => Ok(None),
        }
    }

    async fn note_pending(&mut self, body: &Manifest) -> Result<(), OpeningError> {
        // The oldest is the least likely to land still; if it does, the opening is refused, and
        // nothing is lost by that.
        let surplus = (self.metadata.pending.len() + 1).saturating_sub(PENDING_TENURES_MAX);
        self.metadata.pending.drain(..surplus);
        if !crate::mutant::is("pending tenure forgotten") {
            self.metadata.pending.push(body.tenure);
        }
        self.metadata.last_lsn = self.metadata.last_lsn.max(body.lsn);
        self.store_metadata().await
    }

    async fn confirm(&mut self, manifest: &Manifest) -> Result<(), OpeningError> {
        self.metadata.confirmed = Some(manifest.tenure);
        self.metadata.pending.clear();
        self.metadata.incarnation = Some(manifest.incarnation);
        self.metadata.published = Some(own_publication(manifest));
        self.store_metadata().await
    }

    async fn store_metadata(&mut self) -> Result<(), OpeningError> {
        let encoded: Bytes = self.metadata.encode();
        // Before the call, which may be cut off: whoever opens again with this value must not
        // forget a pending tenure.
        self.recovered.metadata = Some(encoded.clone());
        Ok(self.recovered.store.put_metadata(encoded).await?)
    }
}

/// The generations that hold records and hold none above `lsn`, oldest first, and the empty ones
/// but the active.
fn covered(recovered: &Recovered, lsn: Lsn) -> Vec<Generation> {
    let active = recovered.generations.len().saturating_sub(1);
    let generations = recovered.generations.iter().enumerate();
    generations
        .filter(|(index, generation)| {
            let in_use = *index == active && generation.records.is_empty();
            !in_use && generation.records.iter().all(|record| record.at.lsn <= lsn)
        })
        .map(|(_, generation)| generation.generation)
        .collect()
}
