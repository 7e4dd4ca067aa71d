//! Publications that make an image something else than its last tenure left: an earlier version
//! again, a clone, another size, nothing. Each begins a tenure, so whoever was the active writer is
//! fenced.
//!
//! Invariants (protocol §4.1, §5):
//! - an earlier version is gone back to only while the base still keeps it, and the LSN goes on
//!   above every one that the base knows;
//! - version numbers, epochs, object numbers and pins go on, also through a deletion and into a
//!   clone that takes the name of a deleted image;
//! - a manifest is made from another by copying all of it and changing what is known to change, so
//!   that what shared segments need to be read (their keys) comes along.
//!
//! Must never: change a pin.

use std::collections::BTreeSet;

use super::others::leave_mark;
use super::tenures::begin_tenure;
use super::{FIRST_PUBLICATION, RuleBroken};
use crate::encryption::WrappedDataKey;
use crate::env::WallTime;
use crate::format::manifest::{ImageState, Manifest, RetiredObject};
use crate::ids::{ImageId, Incarnation, Lsn, ObjectSequence, PublicationId, Tenure, Version};
use crate::reachability::{named_versions, referenced_objects};

/// Whether `newest` keeps `version` and everything that it references: it is not forgotten, or a
/// snapshot or pin names it (protocol §4.1).
#[must_use]
pub fn is_retained(newest: &Manifest, version: Version) -> bool {
    let since_oldest = newest.oldest_retained..=newest.version;
    since_oldest.contains(&version) || named_versions(newest).contains(&version)
}

/// Composes the manifest by which an image is again what it was in version `to`, with the LSN
/// `lsn`. Its state stays as it is in `base`: of a clean image, or of one whose server does this
/// for its next tenure. The size does not shrink: pages that the image did not have then read as
/// zeroes. What is replaced is retired, so it can be undone until it is collected.
///
/// # Errors
/// [`RuleBroken`] if the base does not keep that version, or the LSN is not above the base's.
pub fn compose_rollback(
    base: &Manifest,
    to: &Manifest,
    tenure: Tenure,
    lsn: Lsn,
    at: WallTime,
) -> Result<Manifest, RuleBroken> {
    if to.incarnation != base.incarnation || !is_retained(base, to.version) {
        return Err(RuleBroken::NotRetained {
            version: to.version,
            base: base.version,
        });
    }
    if lsn <= base.lsn {
        return Err(RuleBroken::WentBack {
            what: "the LSN",
            from: base.lsn.next().0,
            to: lsn.0,
        });
    }
    let mut next = begin_tenure(base, tenure, at);
    next.lsn = lsn;
    next.size_bytes = base.size_bytes.max(to.size_bytes);
    next.segments.clone_from(&to.segments);
    next.maps.clone_from(&to.maps);
    next.root = to.root;
    next.tail.clone_from(&to.tail);
    let retired = next.retired.iter().map(|retired| &retired.name);
    let mut unused: BTreeSet<_> = retired.chain(referenced_objects(base)).collect();
    for name in referenced_objects(to) {
        unused.remove(name);
    }
    let unused = unused.into_iter().cloned();
    next.retired = unused.map(|name| RetiredObject { name }).collect();
    if crate::mutant::is("a rollback retires nothing") {
        next.retired.clear();
    }
    next.validate()?;
    Ok(next)
}

/// Composes the manifest by which a clean image gets a larger size without its server.
///
/// # Errors
/// [`RuleBroken`] if there is an active writer, or the size is smaller or no multiple of the page
/// size.
pub fn compose_resize(
    base: &Manifest,
    size_bytes: u64,
    tenure: Tenure,
    at: WallTime,
) -> Result<Manifest, RuleBroken> {
    if base.state != ImageState::Clean {
        return Err(RuleBroken::NotClean {
            version: base.version,
        });
    }
    if size_bytes < base.size_bytes {
        return Err(RuleBroken::WentBack {
            what: "the size",
            from: base.size_bytes,
            to: size_bytes,
        });
    }
    let mut next = begin_tenure(base, tenure, at);
    next.size_bytes = size_bytes;
    next.validate()?;
    Ok(next)
}

/// Composes the tombstone of an image: nobody is the active writer, it references nothing and keeps
/// no version, but its pins go on (protocol §5.3).
#[must_use]
pub fn compose_tombstone(
    base: &Manifest,
    tenure: Tenure,
    id: PublicationId,
    at: WallTime,
) -> Manifest {
    let mut next = begin_tenure(base, tenure, at);
    next.state = ImageState::Tombstone;
    next.owner.clear();
    next.oldest_retained = next.version;
    next.segments.clear();
    next.maps.clear();
    next.root = None;
    next.tail.clear();
    next.retired.clear();
    next.snapshots.clear();
    if crate::mutant::is("tombstone that drops pins") {
        next.pins.clear();
    }
    // Whoever still reads the image's segments, a clone, has their keys itself.
    next.data_keys.clear();
    leave_mark(&mut next, id);
    next
}

/// Which image a clone is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneTarget {
    /// Its name.
    pub image: ImageId,
    /// Random; the pins that hold its objects name it.
    pub incarnation: Incarnation,
    /// Of a higher epoch than the name has seen.
    pub tenure: Tenure,
    /// What its own segments are sealed with; in the clear without it.
    pub data_key: Option<WrappedDataKey>,
}

/// Composes the first manifest of a clone: the content of `origin`, a version of another image, in
/// without an active writer. `base` is the tombstone under the clone's name, if there is one.
/// Everything that `origin` references has to be pinned for the clone first (protocol §5.1). The
/// data keys of `origin` go on in the clone where it shares segments that they seal.
///
/// # Errors
/// [`RuleBroken`] if the result is not a valid manifest.
pub fn compose_clone(
    base: Option<&Manifest>,
    origin: &Manifest,
    target: CloneTarget,
    id: PublicationId,
    at: WallTime,
) -> Result<Manifest, RuleBroken> {
    let mut next = origin.clone();
    next.image = target.image;
    next.incarnation = target.incarnation;
    next.tenure = target.tenure;
    next.version = base.map_or(Version(1), |base| base.version.next());
    next.oldest_retained = next.version;
    next.published_at = at;
    next.state = ImageState::Clean;
    next.owner.clear();
    next.publication = FIRST_PUBLICATION;
    // No object of the clone's own exists.
    next.watermark = ObjectSequence(0);
    next.retired.clear();
    next.snapshots.clear();
    next.takeovers.clear();
    next.others.clear();
    next.pins.clear();
    let shared: BTreeSet<_> = origin
        .segments
        .iter()
        .map(|entry| (&entry.name.image, entry.name.incarnation))
        .collect();
    next.data_keys
        .retain(|key| shared.contains(&(&key.image, key.incarnation)));
    if let Some(own) = target.data_key {
        next.put_data_key(own);
    }
    if let Some(base) = base {
        next.lsn = next.lsn.max(base.lsn);
        next.next_segment = next.next_segment.max(base.next_segment);
        next.next_map = next.next_map.max(base.next_map);
        next.others.clone_from(&base.others);
        next.pins.clone_from(&base.pins);
    }
    leave_mark(&mut next, id);
    next.validate()?;
    Ok(next)
}
