//! Composes the next manifest of an image: who may change what, and what must be carried along.
//!
//! A manifest has two parts. The *writer's part* (map, size, LSN, watermark, state) belongs to the
//! active writer; the *others' part* (snapshots, pins, oldest retained version) belongs to
//! operators and the collector. Whoever publishes takes the other part from the manifest that it
//! builds on. Everything here is pure: the same arguments give the same body.
//!
//! Invariants, checked here because nothing after this could (protocol §4.1, §4.6):
//! - a publication references only objects that its base protects, or objects of its own epoch
//!   whose numbers are not below the base's watermark (those below it the collector may delete);
//! - what it replaces goes on the retired list;
//! - LSN, size, watermark and numbers never go back within a tenure.
//!
//! Must never: compose onto a manifest of another tenure as if it were the writer's own.

mod history;
mod others;
mod tenures;

use std::collections::BTreeSet;

use crate::env::WallTime;
use crate::format::manifest::{
    ImageState, InvalidManifest, Manifest, MapObjectEntry, MapObjectId, RetiredObject, RootEntry,
    SegmentEntry, SegmentId,
};
use crate::format::object_name::ObjectName;
use crate::ids::{EpochNumber, Lsn, ObjectSequence, PublicationCounter, Tenure, Version};
use crate::reachability::referenced_objects;

pub use history::{
    CloneTarget, compose_clone, compose_resize, compose_rollback, compose_tombstone, is_retained,
};
pub use others::{OthersPart, compose_by_other, leave_mark};
pub use tenures::{NewImage, compose_create, compose_open, compose_takeover, next_tenure};

/// The counter of the publication that begins a tenure.
pub const FIRST_PUBLICATION: PublicationCounter = PublicationCounter(1);

/// What the tenure's server decides about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterPart {
    /// [`ImageState::Active`], or [`ImageState::Clean`] when the server leaves: after its last view
    /// was closed, and no view begins before a later publication as the active writer counted
    /// (protocol §4.6).
    pub state: ImageState,
    /// This body's number within the tenure: higher than that of every body composed before.
    pub publication: PublicationCounter,
    /// The image's size.
    pub size_bytes: u64,
    /// Every commit up to here is in `segments`; the buffer is synced up to here.
    pub lsn: Lsn,
    /// Below this every object of the tenure's epoch is referenced or never will be: no higher
    /// than the number of any upload that a later publication may reference.
    pub watermark: ObjectSequence,
    /// The number that the next segment gets.
    pub next_segment: SegmentId,
    /// The number that the next map object gets.
    pub next_map: MapObjectId,
    /// Segments in use, ascending.
    pub segments: Vec<SegmentEntry>,
    /// Map objects in use, ascending.
    pub maps: Vec<MapObjectEntry>,
    /// The compacted map.
    pub root: Option<RootEntry>,
    /// Segments since the last map compaction, oldest first.
    pub tail: Vec<SegmentId>,
}

impl WriterPart {
    /// The writer's part of `base` with the counter advanced: what a publication that changes
    /// nothing would say. Growth and handing the image back change one field of it.
    #[must_use]
    pub fn unchanged(base: &Manifest) -> Self {
        Self {
            state: base.state,
            publication: base.publication.next(),
            size_bytes: base.size_bytes,
            lsn: base.lsn,
            watermark: base.watermark,
            next_segment: base.next_segment,
            next_map: base.next_map,
            segments: base.segments.clone(),
            maps: base.maps.clone(),
            root: base.root,
            tail: base.tail.clone(),
        }
    }

    fn references(&self) -> BTreeSet<&ObjectName> {
        let segments = self.segments.iter().map(|entry| &entry.name);
        segments
            .chain(self.maps.iter().map(|entry| &entry.name))
            .collect()
    }
}

/// Which of the base's retired objects the writer lets go: the last view that could read them was
/// closed before it composed. Views begun while the publication that retired an object was in
/// flight count as views that could (protocol §4.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Released {
    /// None: some view is older than the base.
    Nothing,
    /// All of them: every open view reads the base's map or a later one.
    Everything,
    /// Exactly these.
    Objects(BTreeSet<ObjectName>),
}

/// A composition that would break a rule. The writer has a bug or the store returned what nobody
/// may publish: poison the image, publish nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleBroken {
    /// The base belongs to another tenure.
    #[error("tenure {mine} may not publish onto version {version} of tenure {theirs}")]
    OtherTenure {
        /// The writer's.
        mine: Tenure,
        /// The base's.
        theirs: Tenure,
        /// The base.
        version: Version,
    },
    /// The base already carries this counter or a higher one.
    #[error("publication {mine} onto a base that carries publication {theirs}")]
    CounterNotAdvanced {
        /// The writer's.
        mine: PublicationCounter,
        /// The base's.
        theirs: PublicationCounter,
    },
    /// Something that only rises would fall.
    #[error("{what} would go back from {from} to {to}")]
    WentBack {
        /// The field.
        what: &'static str,
        /// The base's value.
        from: u64,
        /// The writer's.
        to: u64,
    },
    /// An object that the collector may already have taken: neither protected by the base nor the
    /// tenure's own at or above the base's watermark.
    #[error(
        "{name} is neither protected by version {version} nor of epoch {epoch} from number \
         {watermark} on: the collector may have deleted it"
    )]
    Unprotected {
        /// The object.
        name: Box<ObjectName>,
        /// The base.
        version: Version,
        /// The writer's epoch.
        epoch: EpochNumber,
        /// The base's watermark.
        watermark: ObjectSequence,
    },
    /// A version that the base does not keep: the collector may have deleted what it needs.
    #[error("version {version} is not kept by version {base} any more")]
    NotRetained {
        /// The version.
        version: Version,
        /// The base.
        base: Version,
    },
    /// The data key of an image that the base shares segments with, or its own, would be lost, or
    /// another would be there.
    #[error("the data keys would not be those of version {version}")]
    OtherDataKeys {
        /// The base.
        version: Version,
    },
    /// There is an active writer, or the image was deleted.
    #[error("version {version} is not clean, which a publication without its server needs")]
    NotClean {
        /// The base.
        version: Version,
    },
    /// A server publishes active or clean; tombstones are made by others.
    #[error("a server does not publish a manifest that is {0:?}")]
    NotAWriterState(ImageState),
    /// The result is not a manifest.
    #[error("it would not be a valid manifest: {0}")]
    Invalid(#[from] InvalidManifest),
}

/// `base` with the next version number. Nobody can read what a clean manifest retired, since a
/// server hands the image back only after its last view closed, so a publication onto one forgets
/// it.
fn successor(base: &Manifest, at: WallTime) -> Manifest {
    let mut next = base.clone();
    next.version = base.version.next();
    next.published_at = at;
    if base.state == ImageState::Clean {
        next.retired.clear();
    }
    next
}

/// Composes the server's next publication onto `base`: its own part, and everything else from the
/// base. The same call merges onto a manifest that others published in between.
///
/// # Errors
/// [`RuleBroken`] if the result must not be published.
pub fn compose_publication(
    base: &Manifest,
    tenure: Tenure,
    own: WriterPart,
    released: &Released,
    at: WallTime,
) -> Result<Manifest, RuleBroken> {
    check_writer_rules(base, tenure, &own)?;
    let mut next = successor(base, at);
    if crate::mutant::is("no epoch check") {
        next.tenure = tenure;
    }
    next.retired = retire(base, &own, released);
    if crate::mutant::is("growth forgets the retired list") && own.size_bytes > base.size_bytes {
        next.retired.clear();
    }
    next.state = own.state;
    next.publication = own.publication;
    next.size_bytes = own.size_bytes;
    next.lsn = own.lsn;
    next.watermark = own.watermark;
    next.next_segment = own.next_segment;
    next.next_map = own.next_map;
    next.segments = own.segments;
    next.maps = own.maps;
    next.root = own.root;
    next.tail = own.tail;
    next.validate()?;
    Ok(next)
}

/// The retired list of a publication: what the base retired and the writer does not release, and
/// what this publication replaces. The latter is never released at once: a view that begins while
/// the publication is in flight still reads the base.
fn retire(base: &Manifest, own: &WriterPart, released: &Released) -> Vec<RetiredObject> {
    let mut names: BTreeSet<&ObjectName> = match released {
        _ if base.state == ImageState::Clean => BTreeSet::new(),
        Released::Everything => BTreeSet::new(),
        Released::Nothing => base.retired.iter().map(|retired| &retired.name).collect(),
        Released::Objects(gone) => {
            let kept = base.retired.iter().map(|retired| &retired.name);
            kept.filter(|name| !gone.contains(*name)).collect()
        }
    };
    names.extend(referenced_objects(base));
    let in_use = own.references();
    let unused = names.into_iter().filter(|name| !in_use.contains(name));
    unused
        .map(|name| RetiredObject { name: name.clone() })
        .collect()
}

fn check_writer_rules(base: &Manifest, tenure: Tenure, own: &WriterPart) -> Result<(), RuleBroken> {
    if base.tenure != tenure && !crate::mutant::is("no epoch check") {
        return Err(RuleBroken::OtherTenure {
            mine: tenure,
            theirs: base.tenure,
            version: base.version,
        });
    }
    if !matches!(own.state, ImageState::Active | ImageState::Clean) {
        return Err(RuleBroken::NotAWriterState(own.state));
    }
    if own.publication <= base.publication {
        return Err(RuleBroken::CounterNotAdvanced {
            mine: own.publication,
            theirs: base.publication,
        });
    }
    let segment = (base.next_segment.0, own.next_segment.0);
    let map = (base.next_map.0, own.next_map.0);
    let rising = [
        ("the LSN", base.lsn.0, own.lsn.0),
        ("the size", base.size_bytes, own.size_bytes),
        ("the watermark", base.watermark.0, own.watermark.0),
        (
            "the next segment's number",
            segment.0.into(),
            segment.1.into(),
        ),
        ("the next map object's number", map.0.into(), map.1.into()),
    ];
    if let Some(&(what, from, to)) = rising.iter().find(|(_, from, to)| to < from) {
        return Err(RuleBroken::WentBack { what, from, to });
    }
    check_references(base, tenure.epoch, own)
}

fn check_references(
    base: &Manifest,
    epoch: EpochNumber,
    own: &WriterPart,
) -> Result<(), RuleBroken> {
    let mut protected = referenced_objects(base);
    protected.extend(base.retired.iter().map(|retired| &retired.name));
    let made_in_this_tenure = |name: &ObjectName| {
        name.image == base.image
            && name.incarnation == base.incarnation
            && name.epoch == epoch
            && name.sequence >= base.watermark
    };
    match own
        .references()
        .into_iter()
        .find(|name| !protected.contains(*name) && !made_in_this_tenure(name))
    {
        Some(name) => Err(RuleBroken::Unprotected {
            name: Box::new(name.clone()),
            version: base.version,
            epoch,
            watermark: base.watermark,
        }),
        None => Ok(()),
    }
}

fn keep_last<T>(list: &mut Vec<T>, limit: usize) {
    let surplus = list.len().saturating_sub(limit);
    list.drain(..surplus);
}
