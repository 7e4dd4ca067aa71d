//! Composes the next manifest of an image: who may change what, and what must be carried along.
//!
//! A manifest has two parts. The *writer's part* (map, size, LSN, watermark, office) belongs to the
//! server in office; the *others' part* (snapshots, pins, oldest retained version) belongs to
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

use std::collections::BTreeSet;

use crate::env::{Entropy, EntropyExt, WallTime};
use crate::format::manifest::{
    InvalidManifest, Manifest, MapObjectEntry, MapObjectId, OTHERS_MAX, OWNER_MAX_BYTES, Office,
    Pin, RetiredObject, RootEntry, SegmentEntry, SegmentId, Snapshot, TAKEOVERS_MAX, Takeover,
};
use crate::format::object_name::ObjectName;
use crate::ids::{
    EpochNumber, ImageId, Incarnation, Lsn, ObjectSequence, PageSize, PublicationCounter,
    PublicationId, Tenure, TenureId, Version,
};
use crate::reachability::referenced_objects;

/// The counter of the publication that begins a tenure.
pub const FIRST_PUBLICATION: PublicationCounter = PublicationCounter(1);

/// What the tenure's server decides about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterPart {
    /// [`Office::InOffice`], or [`Office::Clean`] when the server leaves: after its last view was
    /// closed, and no view begins before a later publication in office counted (protocol §4.6).
    pub office: Office,
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
    /// The folded map.
    pub root: Option<RootEntry>,
    /// Segments since the last fold, oldest first.
    pub tail: Vec<SegmentId>,
}

impl WriterPart {
    /// The writer's part of `base` with the counter advanced: what a publication that changes
    /// nothing would say. Growth and leaving office change one field of it.
    #[must_use]
    pub fn unchanged(base: &Manifest) -> Self {
        Self {
            office: base.office,
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

/// What everybody but the tenure's server decides about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OthersPart {
    /// Versions below this one are forgotten.
    pub oldest_retained: Version,
    /// Named versions, ascending by name.
    pub snapshots: Vec<Snapshot>,
    /// Pins.
    pub pins: Vec<Pin>,
}

impl OthersPart {
    /// The others' part of `base`, to be changed and published.
    #[must_use]
    pub fn of(base: &Manifest) -> Self {
        Self {
            oldest_retained: base.oldest_retained,
            snapshots: base.snapshots.clone(),
            pins: base.pins.clone(),
        }
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
    /// A server publishes in office or clean; tombstones are made by others.
    #[error("a server does not publish a manifest that is {0:?}")]
    NotAServersOffice(Office),
    /// The result is not a manifest.
    #[error("it would not be a valid manifest: {0}")]
    Invalid(#[from] InvalidManifest),
}

/// Draws the tenure that comes after `newest`.
pub fn next_tenure(newest: Option<&Manifest>, entropy: &dyn Entropy) -> Tenure {
    let last = newest.map_or(EpochNumber(0), |manifest| manifest.tenure.epoch);
    Tenure {
        epoch: last.next(),
        id: TenureId(entropy.u128()),
    }
}

/// `base` with the next version number. Nobody can read what a clean manifest retired, since a
/// server leaves office only after its last view closed, so a publication onto one forgets it.
fn successor(base: &Manifest, at: WallTime) -> Manifest {
    let mut next = base.clone();
    next.version = base.version.next();
    next.published_at = at;
    if base.office == Office::Clean {
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
    next.retired = retire(base, &own, released);
    next.office = own.office;
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
        _ if base.office == Office::Clean => BTreeSet::new(),
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
    if base.tenure != tenure {
        return Err(RuleBroken::OtherTenure {
            mine: tenure,
            theirs: base.tenure,
            version: base.version,
        });
    }
    if !matches!(own.office, Office::InOffice | Office::Clean) {
        return Err(RuleBroken::NotAServersOffice(own.office));
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
}

/// Composes the first manifest of an image, in office at once. `base` is the tombstone under the
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
        office: Office::InOffice,
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
        pins: base.map_or_else(Vec::new, |base| base.pins.clone()),
        takeovers: Vec::new(),
    }
}

/// Composes the manifest that begins a tenure: the base's content, somebody in office, and the
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
    next.office = Office::InOffice;
    next.owner = bounded_owner(owner);
    next.size_bytes = base.size_bytes.max(size_bytes);
    next
}

/// Composes the manifest by which an operator takes the image from whoever is in office: clean, of
/// a new epoch, with what was given up on record. The retired list goes on, because the deposed
/// server's readers may still use it.
#[must_use]
pub fn compose_takeover(base: &Manifest, tenure: Tenure, at: WallTime) -> Manifest {
    let mut next = begin_tenure(base, tenure, at);
    next.office = Office::Clean;
    next.owner.clear();
    next.takeovers.push(Takeover {
        from: base.tenure,
        at_lsn: base.lsn,
        at,
    });
    keep_last(&mut next.takeovers, TAKEOVERS_MAX);
    next
}

fn begin_tenure(base: &Manifest, tenure: Tenure, at: WallTime) -> Manifest {
    let mut next = successor(base, at);
    next.tenure = tenure;
    next.publication = FIRST_PUBLICATION;
    // No object of the new epoch exists before this publication counted.
    next.watermark = ObjectSequence(0);
    next
}

/// Composes a publication within the tenure by a process that does not hold it: the others' part
/// is replaced, the writer's part and its counter are kept, and `id` is left as a mark by which
/// the publisher recognises its publication.
///
/// # Errors
/// [`RuleBroken`] if the result must not be published.
pub fn compose_by_other(
    base: &Manifest,
    id: PublicationId,
    part: OthersPart,
    at: WallTime,
) -> Result<Manifest, RuleBroken> {
    if part.oldest_retained < base.oldest_retained {
        return Err(RuleBroken::WentBack {
            what: "the oldest retained version",
            from: base.oldest_retained.0,
            to: part.oldest_retained.0,
        });
    }
    let mut next = successor(base, at);
    next.oldest_retained = part.oldest_retained;
    next.snapshots = part.snapshots;
    next.snapshots
        .sort_by(|left, right| left.name.cmp(&right.name));
    next.pins = part.pins;
    next.others.push(id);
    keep_last(&mut next.others, OTHERS_MAX);
    next.validate()?;
    Ok(next)
}

/// The beginning of `owner`, as long as a manifest takes.
fn bounded_owner(owner: &str) -> String {
    let mut end = owner.len().min(OWNER_MAX_BYTES);
    while !owner.is_char_boundary(end) {
        end -= 1;
    }
    owner[..end].to_owned()
}

fn keep_last<T>(list: &mut Vec<T>, limit: usize) {
    let surplus = list.len().saturating_sub(limit);
    list.drain(..surplus);
}
