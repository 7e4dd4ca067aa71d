//! What a manifest keeps alive, and what may be deleted (docs/protocol.md §4). Used by the engine,
//! by operators' clones, by the collector and by `mvps check`.
//!
//! Job: [`Reachable`] takes the newest manifest of an image and every other manifest that it
//! retains, and then tells the fate of any key of that image: an object's, an upload's, a
//! manifest's.
//!
//! Invariants:
//! - Garbage stays garbage. A publication adds references only to objects that its base protects
//!   or to objects of its own epoch that no manifest's watermark has passed. So what is garbage by
//!   some manifest that was the newest once is garbage for ever, and nobody who decided so needs
//!   to hurry, whatever was published since.
//! - What the newest manifest does not know is kept: a higher epoch is a takeover that the caller
//!   has not seen; a number at or above the watermark may be published next; and of another
//!   incarnation under the same epoch number the watermark says nothing.
//!
//! Must never: look at a clock, do I/O, or answer before every retained manifest was taken in.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::format::manifest::{ImageState, Manifest, Pinned};
use crate::format::object_name::{ObjectKind, ObjectName};
use crate::ids::{EpochNumber, ImageId, Incarnation, ObjectSequence, Version};
use crate::mutant;

/// The objects that reading this version needs: segments and map objects, not the retired.
#[must_use]
pub fn referenced_objects(manifest: &Manifest) -> BTreeSet<&ObjectName> {
    let segments = manifest.segments.iter().map(|entry| &entry.name);
    let maps = manifest.maps.iter().map(|entry| &entry.name);
    segments.chain(maps).collect()
}

/// The images whose objects this version references, in order: where a clone of it must be pinned.
#[must_use]
pub fn referenced_images(manifest: &Manifest) -> BTreeSet<&ImageId> {
    let objects = referenced_objects(manifest);
    objects.into_iter().map(|name| &name.image).collect()
}

/// The objects of `image` that this version references, in order: what a clone pins there.
#[must_use]
pub fn objects_of(manifest: &Manifest, image: &ImageId) -> Vec<ObjectName> {
    let objects = referenced_objects(manifest).into_iter();
    let theirs = objects.filter(|name| name.image == *image);
    theirs.cloned().collect()
}

/// The versions that snapshots and pins of the newest manifest name.
#[must_use]
pub fn named_versions(newest: &Manifest) -> BTreeSet<Version> {
    let snapshots = newest.snapshots.iter().map(|snapshot| snapshot.version);
    let pins = newest.pins.iter().filter_map(|pin| match pin.pinned {
        Pinned::Version(version) => Some(version),
        Pinned::Objects(_) => None,
    });
    snapshots.chain(pins).collect()
}

/// Every version that the newest manifest retains beside itself, ascending: those from its oldest
/// retained one on, and those that it names.
#[must_use]
pub fn retained_versions(newest: &Manifest) -> BTreeSet<Version> {
    let mut versions = named_versions(newest);
    versions.extend((newest.oldest_retained.0..newest.version.0).map(Version));
    versions.remove(&newest.version);
    versions
}

/// Whether the image is deleted, or its name is taken so that nobody makes it.
#[must_use]
pub fn is_tombstone(manifest: &Manifest) -> bool {
    matches!(
        manifest.state,
        ImageState::Tombstone | ImageState::Abandoned
    )
}

/// Up to where object names are settled: whatever a manifest does not reference of them by now, no
/// manifest ever will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// The incarnation in the newest manifest.
    pub incarnation: Incarnation,
    /// Its epoch.
    pub epoch: EpochNumber,
    /// Its watermark.
    pub watermark: ObjectSequence,
}

impl Horizon {
    /// The horizon of the newest manifest.
    #[must_use]
    pub fn of(newest: &Manifest) -> Self {
        Self {
            incarnation: newest.incarnation,
            epoch: newest.tenure.epoch,
            watermark: newest.watermark,
        }
    }

    /// Whether the name is settled. Epochs rise over all lives of an image's name, because a
    /// tombstone hands them on, so a lower one is settled in every incarnation.
    #[must_use]
    pub fn settles(&self, name: &ObjectName) -> bool {
        if mutant::is("collection ignores epoch and watermark") {
            return true;
        }
        match name.epoch.cmp(&self.epoch) {
            Ordering::Less => true,
            Ordering::Equal if mutant::is("the active epoch is settled") => true,
            Ordering::Equal => {
                name.incarnation == self.incarnation && name.sequence < self.watermark
            }
            Ordering::Greater => false,
        }
    }
}

/// What becomes of an object, or of an upload that would make it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectFate {
    /// It is another image's: ask that image's manifests.
    OtherImage,
    /// A retained version, the retired list or a pin needs it.
    Needed,
    /// Nothing needs it, but a publication that was not seen yet may.
    Unsettled,
    /// It may be deleted, now or at any later time.
    Garbage,
}

/// What becomes of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ManifestFate {
    /// Newest, newer than what was looked at, at or above the oldest retained version, or named.
    Retained,
    /// Forgotten. It may be deleted, now or at any later time, unless it is a tombstone
    /// ([`is_tombstone`]): those stay for ever.
    Forgotten,
}

/// An object of one known image, in 48 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct OwnObject {
    incarnation: Incarnation,
    epoch: EpochNumber,
    sequence: ObjectSequence,
    suffix: u64,
    kind: ObjectKind,
}

impl OwnObject {
    fn of(name: &ObjectName) -> Self {
        Self {
            incarnation: name.incarnation,
            epoch: name.epoch,
            sequence: name.sequence,
            suffix: name.suffix,
            kind: name.kind,
        }
    }
}

/// Everything that one image keeps alive. Takes about 60 bytes of memory for each different object
/// of the image, however many versions reference it.
#[derive(Debug, Clone)]
pub struct Reachable {
    image: ImageId,
    newest: Version,
    oldest_retained: Version,
    named: BTreeSet<Version>,
    horizon: Horizon,
    needed: BTreeSet<OwnObject>,
    other_images: BTreeSet<ImageId>,
    unread: BTreeSet<Version>,
}

impl Reachable {
    /// What the newest manifest keeps alive by itself: its map and segments, its retired list and
    /// the objects that it pins. The versions in [`Self::unread`] have to be taken in next.
    #[must_use]
    pub fn of(newest: &Manifest) -> Self {
        let mut reachable = Self {
            image: newest.image.clone(),
            newest: newest.version,
            oldest_retained: newest.oldest_retained,
            named: named_versions(newest),
            horizon: Horizon::of(newest),
            needed: BTreeSet::new(),
            other_images: BTreeSet::new(),
            unread: retained_versions(newest),
        };
        reachable.need(referenced_objects(newest));
        reachable.need(newest.retired.iter().map(|retired| &retired.name));
        for pin in &newest.pins {
            if let Pinned::Objects(names) = &pin.pinned {
                reachable.need(names);
            }
        }
        reachable
    }

    fn need<'a>(&mut self, names: impl IntoIterator<Item = &'a ObjectName>) {
        for name in names {
            if name.image == self.image {
                self.needed.insert(OwnObject::of(name));
            } else if !self.other_images.contains(&name.image) {
                self.other_images.insert(name.image.clone());
            }
        }
    }

    /// Retained versions that were not taken in yet, ascending.
    pub fn unread(&self) -> impl Iterator<Item = Version> + '_ {
        self.unread.iter().copied()
    }

    /// Whether every retained version was taken in.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.unread.is_empty()
    }

    /// Takes in a retained version of the same image: what reading it needs.
    ///
    /// # Panics
    /// If it is another image's.
    pub fn take_in(&mut self, retained: &Manifest) {
        assert_eq!(retained.image, self.image, "a version of the same image");
        self.unread.remove(&retained.version);
        self.need(referenced_objects(retained));
    }

    /// A retained version that the caller cannot read: it is left out, so that something needed may
    /// look like garbage. For the known-bad variant of the collector only.
    pub(crate) fn leave_out(&mut self, version: Version) {
        self.unread.remove(&version);
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> &ImageId {
        &self.image
    }

    /// Up to where its object names are settled.
    #[must_use]
    pub fn horizon(&self) -> Horizon {
        self.horizon
    }

    /// How many objects of the image itself are needed.
    #[must_use]
    pub fn needed_objects(&self) -> usize {
        self.needed.len()
    }

    /// Whether anything taken in so far needs the object: what a cloner asks before it pins it. As
    /// long as versions are unread, `false` means nothing.
    #[must_use]
    pub fn needs(&self, name: &ObjectName) -> bool {
        name.image == self.image && self.needed.contains(&OwnObject::of(name))
    }

    /// Whether anything taken in so far needs an object of `other`: what decides whether a pin
    /// there may be released. As long as versions are unread, `false` means nothing.
    #[must_use]
    pub fn shares_with(&self, other: &ImageId) -> bool {
        self.other_images.contains(other)
    }

    /// What becomes of an object, or of an upload that would make it.
    ///
    /// # Panics
    /// Unless [`Self::is_complete`].
    #[must_use]
    pub fn object_fate(&self, name: &ObjectName) -> ObjectFate {
        assert!(self.is_complete(), "every retained version was taken in");
        if name.image != self.image {
            ObjectFate::OtherImage
        } else if self.needed.contains(&OwnObject::of(name)) {
            ObjectFate::Needed
        } else if self.horizon.settles(name) {
            ObjectFate::Garbage
        } else {
            ObjectFate::Unsettled
        }
    }

    /// What becomes of a manifest of the image.
    #[must_use]
    pub fn manifest_fate(&self, version: Version) -> ManifestFate {
        let retained = version >= self.oldest_retained || version >= self.newest;
        if retained || self.named.contains(&version) {
            ManifestFate::Retained
        } else {
            ManifestFate::Forgotten
        }
    }
}

#[cfg(test)]
mod tests;
