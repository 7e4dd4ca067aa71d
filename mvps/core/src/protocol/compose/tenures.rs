//! Publications that begin a tenure on what the image is: creating, opening, takeover.

use super::{FIRST_PUBLICATION, keep_last, successor};
use crate::encryption::WrappedDataKey;
use crate::env::{Entropy, EntropyExt, WallTime};
use crate::format::manifest::{
    ImageState, Manifest, MapObjectId, OWNER_MAX_BYTES, SegmentId, TAKEOVERS_MAX, Takeover,
};
use crate::ids::{
    EpochNumber, ImageId, Incarnation, Lsn, ObjectSequence, PageSize, Tenure, TenureId, Version,
};

/// Draws the tenure that comes after `newest`.
pub fn next_tenure(newest: Option<&Manifest>, entropy: &dyn Entropy) -> Tenure {
    let last = newest.map_or(EpochNumber(0), |manifest| manifest.tenure.epoch);
    Tenure {
        epoch: last.next(),
        id: TenureId(entropy.u128()),
    }
}

/// What a new image is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewImage {
    /// Its name.
    pub image: ImageId,
    /// Random.
    pub incarnation: Incarnation,
    /// Its page size.
    pub page_size: PageSize,
    /// Its size, a multiple of the page size.
    pub size_bytes: u64,
    /// What its segments are sealed with; in the clear without it.
    pub data_key: Option<WrappedDataKey>,
}

/// Composes the first manifest of an image, active at once. `base` is the tombstone under the
/// name, if there is one: its pins, version numbers, epochs, LSN and object numbers go on, and
/// what the earlier life retained is forgotten with it.
#[must_use]
pub fn compose_create(
    base: Option<&Manifest>,
    new: &NewImage,
    tenure: Tenure,
    owner: &str,
    at: WallTime,
) -> Manifest {
    let version = base.map_or(Version(1), |base| base.version.next());
    Manifest {
        image: new.image.clone(),
        version,
        incarnation: new.incarnation,
        tenure,
        state: ImageState::Active,
        owner: bounded_owner(owner),
        publication: FIRST_PUBLICATION,
        others: base.map_or_else(Vec::new, |base| base.others.clone()),
        published_at: at,
        page_size: new.page_size,
        size_bytes: new.size_bytes,
        lsn: base.map_or(Lsn(0), |base| base.lsn),
        watermark: ObjectSequence(0),
        oldest_retained: version,
        next_segment: base.map_or(SegmentId(0), |base| base.next_segment),
        next_map: base.map_or(MapObjectId(0), |base| base.next_map),
        segments: Vec::new(),
        maps: Vec::new(),
        root: None,
        tail: Vec::new(),
        retired: Vec::new(),
        snapshots: Vec::new(),
        pins: base
            .filter(|_| !crate::mutant::is("a new life drops the pins"))
            .map_or_else(Vec::new, |base| base.pins.clone()),
        takeovers: Vec::new(),
        data_keys: new.data_key.iter().cloned().collect(),
    }
}

/// Composes the manifest that begins a tenure: the base's content, an active writer, and the
/// image grown to `size_bytes` if that is more.
#[must_use]
pub fn compose_open(
    base: &Manifest,
    tenure: Tenure,
    owner: &str,
    size_bytes: u64,
    at: WallTime,
) -> Manifest {
    let mut next = begin_tenure(base, tenure, at);
    next.state = ImageState::Active;
    next.owner = bounded_owner(owner);
    next.size_bytes = base.size_bytes.max(size_bytes);
    next
}

/// Composes the manifest by which an operator takes the image from its active writer: clean, of
/// a new epoch, with what was given up on record. The retired list goes on, because the fenced
/// server's readers may still use it.
#[must_use]
pub fn compose_takeover(base: &Manifest, tenure: Tenure, at: WallTime) -> Manifest {
    let mut next = begin_tenure(base, tenure, at);
    next.state = ImageState::Clean;
    next.owner.clear();
    next.takeovers.push(Takeover {
        from: base.tenure,
        at_lsn: base.lsn,
        at,
    });
    keep_last(&mut next.takeovers, TAKEOVERS_MAX);
    next
}

pub(super) fn begin_tenure(base: &Manifest, tenure: Tenure, at: WallTime) -> Manifest {
    let mut next = successor(base, at);
    next.tenure = tenure;
    next.publication = FIRST_PUBLICATION;
    // No object of the new epoch exists before this publication counted.
    next.watermark = ObjectSequence(0);
    next
}

/// The beginning of `owner`, as long as a manifest takes.
fn bounded_owner(owner: &str) -> String {
    let mut end = owner.len().min(OWNER_MAX_BYTES);
    while !owner.is_char_boundary(end) {
        end -= 1;
    }
    owner[..end].to_owned()
}
