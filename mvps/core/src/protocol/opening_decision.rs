//! Decides whether a buffer store may open an image (protocol §2). Pure.
//!
//! Invariant: a buffer store that holds data is never replayed onto a history that is not its own,
//! and a loss is never accepted here: that is `mvps image takeover`, once, by an operator.

use std::fmt;

use crate::env::WallTime;
use crate::format::buffer_metadata::{BufferMetadata, MapDigest};
use crate::format::manifest::{ImageState, Manifest};
use crate::ids::{ImageId, Lsn, PageSize, Tenure, Version};

/// Whether the image may be made or grown for this request (DESIGN §5: INFO and tokens with
/// `read_only`, `snapshot` or `version` never do).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// It may.
    CreateOrGrow,
    /// The image has to exist and keeps its size.
    ExistingOnly,
}

/// Who wants to open what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpeningRequest {
    /// The image.
    pub image: ImageId,
    /// The page size that the token names.
    pub page_size: PageSize,
    /// The size that the token names.
    pub image_size_bytes: Option<u64>,
    /// What the token allows.
    pub intent: Intent,
}

/// A locked and recovered buffer store, as far as opening depends on it.
#[derive(Debug, Clone, Copy)]
pub struct BufferState<'a> {
    /// Its record of itself.
    pub metadata: &'a BufferMetadata,
    /// It holds no page and no range record.
    pub drained: bool,
    /// The highest LSN that it knows of, dropped generations included.
    pub last_lsn: Lsn,
    /// Where it is, for the operator.
    pub location: &'a str,
}

impl BufferState<'_> {
    /// `tenure` is, or may have become, this buffer store's.
    #[must_use]
    pub fn owns(&self, tenure: Tenure) -> bool {
        self.metadata.confirmed == Some(tenure) || self.metadata.pending.contains(&tenure)
    }

    /// Nothing happened to the image since this buffer store's last publication but changes of
    /// state: its commits above `newest.lsn` belong right after it. Every commit, rollback and
    /// takeover of a history continues above all LSNs it knows of, so the same LSN along one
    /// history is the same content; the second test finds the last publication of a server that
    /// was killed before it could note it.
    #[must_use]
    pub fn continues(&self, newest: &Manifest) -> bool {
        let noted = self.metadata.published.is_some_and(|published| {
            published.lsn == newest.lsn && published.map == MapDigest::of(newest)
        });
        let taken_from_us = newest
            .takeovers
            .iter()
            .any(|takeover| takeover.at_lsn == newest.lsn && self.owns(takeover.from));
        let same_life = self.metadata.incarnation == Some(newest.incarnation);
        same_life && (noted || taken_from_us) && self.last_lsn >= newest.lsn
    }
}

/// What to do about an opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Create the image with this size, under the tombstone if there is one.
    Create {
        /// The size.
        size_bytes: u64,
    },
    /// Open it, with this size: its own or a larger one.
    Open {
        /// The size.
        size_bytes: u64,
    },
    /// Do not touch it.
    Refuse(Box<Refusal>),
}

/// Why an opening is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    /// There is no such image, and this request does not create it.
    NoSuchImage,
    /// The image was deleted, and this request does not create another.
    Deleted,
    /// The buffer store served this image, but no manifest of it exists.
    Vanished,
    /// The image was deleted, but the buffer store still holds data of it.
    DeletedButBuffered,
    /// The image has another page size.
    OtherPageSize {
        /// The image's.
        image: PageSize,
        /// The request's.
        request: PageSize,
    },
    /// The requested size is zero or not a multiple of the page size.
    InvalidSize {
        /// The requested size.
        size_bytes: u64,
    },
    /// A server with another buffer store is, or was, the active writer and may hold newer data.
    OtherActive,
    /// Nobody is the active writer, but this buffer store holds data of another history.
    OtherHistory,
    /// The buffer store was the active writer, but is older than its own last checkpoint: somebody
    /// put an old copy in its place.
    RolledBack {
        /// The buffer store's last LSN.
        buffer: Lsn,
    },
}

/// The last checkpoint of the image, for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastCheckpoint {
    /// Host and process of the server that is, or was, the active writer.
    pub owner: String,
    /// Its tenure.
    pub tenure: Tenure,
    /// The newest version.
    pub version: Version,
    /// Its LSN.
    pub lsn: Lsn,
    /// When it was published.
    pub published_at: WallTime,
}

/// A refused opening: what is the matter, and what the operator can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The image.
    pub image: ImageId,
    /// Why.
    pub reason: RefusalReason,
    /// What object storage holds, if it holds anything.
    pub last_checkpoint: Option<LastCheckpoint>,
    /// `mvps image takeover` is part of the way out: it accepts the loss of what the active
    /// writer has not checkpointed.
    pub takeover: bool,
    /// `mvps image adopt` would let this buffer store back in.
    pub adopt: bool,
    /// This directory has to be moved away: the data in it cannot be used.
    pub move_away: Option<String>,
}

/// Decides what an opening does, given the newest manifest and the buffer store.
#[must_use]
pub fn decide_opening(
    newest: Option<&Manifest>,
    buffer: &BufferState<'_>,
    request: &OpeningRequest,
) -> Decision {
    if let Some(size_bytes) = request.image_size_bytes
        && (size_bytes == 0 || size_bytes % request.page_size.bytes() as u64 != 0)
    {
        return refuse(
            newest,
            buffer,
            request,
            RefusalReason::InvalidSize { size_bytes },
        );
    }
    match newest {
        None => decide_creation(None, buffer, request),
        Some(found) if matches!(found.state, ImageState::Tombstone | ImageState::Abandoned) => {
            decide_creation(newest, buffer, request)
        }
        Some(found) => match reason_to_refuse(found, buffer, request) {
            Some(reason) => refuse(newest, buffer, request, reason),
            None => Decision::Open {
                size_bytes: match (request.intent, request.image_size_bytes) {
                    (Intent::CreateOrGrow, Some(size)) => size.max(found.size_bytes),
                    _ => found.size_bytes,
                },
            },
        },
    }
}

fn reason_to_refuse(
    newest: &Manifest,
    buffer: &BufferState<'_>,
    request: &OpeningRequest,
) -> Option<RefusalReason> {
    let clean = newest.state == ImageState::Clean
        || crate::mutant::is("unclean image opened without takeover");
    let drained = buffer.drained || crate::mutant::is("buffer replayed onto another history");
    let owned = buffer.owns(newest.tenure);
    let behind = buffer.last_lsn < newest.lsn && !crate::mutant::is("outdated buffer opened");
    if newest.page_size != request.page_size {
        Some(RefusalReason::OtherPageSize {
            image: newest.page_size,
            request: request.page_size,
        })
    } else if (owned && !behind) || (clean && drained) {
        None
    } else if owned {
        Some(RefusalReason::RolledBack {
            buffer: buffer.last_lsn,
        })
    } else if clean {
        Some(RefusalReason::OtherHistory)
    } else {
        Some(RefusalReason::OtherActive)
    }
}

fn decide_creation(
    tombstone: Option<&Manifest>,
    buffer: &BufferState<'_>,
    request: &OpeningRequest,
) -> Decision {
    let served_before = buffer.metadata.confirmed.is_some();
    let reason = match (tombstone, request.intent, request.image_size_bytes) {
        (None, _, _) if served_before || !buffer.drained => RefusalReason::Vanished,
        (Some(_), _, _) if !buffer.drained => RefusalReason::DeletedButBuffered,
        (_, Intent::CreateOrGrow, Some(size_bytes)) => return Decision::Create { size_bytes },
        (None, _, _) => RefusalReason::NoSuchImage,
        (Some(_), _, _) => RefusalReason::Deleted,
    };
    refuse(tombstone, buffer, request, reason)
}

fn refuse(
    newest: Option<&Manifest>,
    buffer: &BufferState<'_>,
    request: &OpeningRequest,
    reason: RefusalReason,
) -> Decision {
    let about_the_buffer = matches!(
        reason,
        RefusalReason::Vanished
            | RefusalReason::DeletedButBuffered
            | RefusalReason::OtherActive
            | RefusalReason::OtherHistory
            | RefusalReason::RolledBack { .. }
    );
    // What vanished is not silently made anew, whatever the buffer store holds.
    let stands_in_the_way = !buffer.drained || reason == RefusalReason::Vanished;
    let active = newest.is_some_and(|newest| newest.state == ImageState::Active);
    let clean = newest.filter(|newest| newest.state == ImageState::Clean);
    Decision::Refuse(Box::new(Refusal {
        image: request.image.clone(),
        reason,
        last_checkpoint: newest.map(|newest| LastCheckpoint {
            owner: newest.owner.clone(),
            tenure: newest.tenure,
            version: newest.version,
            lsn: newest.lsn,
            published_at: newest.published_at,
        }),
        takeover: about_the_buffer && active,
        adopt: about_the_buffer && clean.is_some_and(|newest| buffer.continues(newest)),
        move_away: (about_the_buffer && stands_in_the_way).then(|| buffer.location.to_owned()),
    }))
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let image = &self.image;
        self.say_why(formatter)?;
        if let Some(last) = &self.last_checkpoint {
            let owner = match last.owner.as_str() {
                "" => "nobody that is named",
                owner => owner,
            };
            write!(
                formatter,
                " Its last checkpoint is version {} (LSN {}, published {}) of epoch {}, active writer: \
                 {owner}.",
                last.version, last.lsn, last.published_at, last.tenure.epoch
            )?;
        }
        if self.adopt {
            write!(
                formatter,
                " Nothing was committed since this buffer store was the active writer's: to let it \
                 back in with everything it holds, run `mvps image adopt {image}`."
            )?;
        }
        if self.takeover {
            write!(
                formatter,
                " If that server is gone for good, run `mvps image takeover {image}`: it goes back \
                 to the last checkpoint and gives up what was not checkpointed."
            )?;
        }
        match &self.move_away {
            Some(directory) if self.takeover => write!(
                formatter,
                " Then move {directory} away, which holds data that cannot be used here, and open \
                 again."
            ),
            Some(directory) => write!(
                formatter,
                " To open without the data in it, move {directory} away and open again."
            ),
            None => Ok(()),
        }
    }
}

impl Refusal {
    fn say_why(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let image = &self.image;
        match self.reason {
            RefusalReason::NoSuchImage => write!(
                formatter,
                "image {image} does not exist. A read-write token with `image_size` creates it."
            ),
            RefusalReason::Deleted => write!(
                formatter,
                "image {image} was deleted. A read-write token with `image_size` creates another."
            ),
            RefusalReason::Vanished => write!(
                formatter,
                "image {image} was served from this buffer store, but object storage has no \
                 manifest of it. Check bucket and prefix."
            ),
            RefusalReason::DeletedButBuffered => write!(
                formatter,
                "image {image} was deleted, but this buffer store still holds data of it."
            ),
            RefusalReason::OtherPageSize {
                image: own,
                request,
            } => write!(
                formatter,
                "image {image} has pages of {} bytes, not {}: use a token with `page_size_bits` {}.",
                own.bytes(),
                request.bytes(),
                own.bits()
            ),
            RefusalReason::InvalidSize { size_bytes } => write!(
                formatter,
                "image {image} cannot have {size_bytes} bytes: `image_size` is a multiple of the \
                 page size, and not 0."
            ),
            RefusalReason::OtherActive => write!(
                formatter,
                "image {image} is in the hands of a server with another buffer store, which may \
                 hold newer data."
            ),
            RefusalReason::OtherHistory => write!(
                formatter,
                "this buffer store holds data that does not belong to what image {image} is now."
            ),
            RefusalReason::RolledBack { buffer } => write!(
                formatter,
                "the buffer store of image {image} ends at LSN {buffer}, before its own last \
                 checkpoint: an old copy is in its place."
            ),
        }
    }
}
