//! What is published of one image: the versions that the newest manifest retains, who reads them,
//! and which objects that takes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mvps_core::format::manifest::{ImageState, Manifest, Pin, PinHolder, Pinned};
use mvps_core::format::object_name::ObjectName;
use mvps_core::ids::Version;

use super::history::BranchId;

/// A version that landed as the newest.
pub(super) struct Landed {
    pub(super) manifest: Arc<Manifest>,
    /// Whose content it has, at its LSN.
    pub(super) branch: BranchId,
}

/// The versions that the newest one retains, and the tombstones.
#[derive(Default)]
pub(super) struct Published {
    versions: BTreeMap<Version, Landed>,
    /// How many of them need an object.
    users: BTreeMap<ObjectName, usize>,
    pub(super) tombstones: BTreeSet<Version>,
}

/// Whether `newest` retains `version`: not forgotten, or named.
pub(super) fn retains(newest: &Manifest, version: Version) -> bool {
    let pinned = Pinned::Version(version);
    version >= newest.oldest_retained
        || newest.snapshots.iter().any(|it| it.version == version)
        || newest.pins.iter().any(|it| it.pinned == pinned)
}

/// The objects that reading a version takes.
pub(super) fn needs(manifest: &Manifest) -> impl Iterator<Item = &ObjectName> {
    let maps = manifest.maps.iter().map(|it| &it.name);
    manifest.segments.iter().map(|it| &it.name).chain(maps)
}

impl Published {
    /// A manifest landed and is the newest. What it forgets is never retained again.
    pub(super) fn landed(&mut self, manifest: &Arc<Manifest>, branch: BranchId) {
        if matches!(
            manifest.state,
            ImageState::Tombstone | ImageState::Abandoned
        ) {
            self.tombstones.insert(manifest.version);
        }
        let landed = Landed {
            manifest: Arc::clone(manifest),
            branch,
        };
        for name in needs(manifest) {
            match self.users.get_mut(name) {
                Some(users) => *users += 1,
                None => {
                    self.users.insert(name.clone(), 1);
                }
            }
        }
        if let Some(replaced) = self.versions.insert(manifest.version, landed) {
            self.without(&replaced);
        }
        let older = self.versions.range(..manifest.oldest_retained);
        let numbers = older.map(|(version, _)| *version);
        let forgotten: Vec<Version> = numbers
            .filter(|version| !retains(manifest, *version))
            .collect();
        for version in forgotten {
            let gone = self.versions.remove(&version).expect("it was listed");
            self.without(&gone);
        }
    }

    /// A version is gone: what it needed has one user less.
    fn without(&mut self, gone: &Landed) {
        for name in needs(&gone.manifest) {
            let users = self.users.get_mut(name).expect("it was counted");
            *users -= 1;
            if *users == 0 {
                self.users.remove(name);
            }
        }
    }

    /// The version, if it is retained.
    pub(super) fn version(&self, version: Version) -> Option<&Landed> {
        self.versions.get(&version)
    }

    /// Every retained version, ascending.
    pub(super) fn versions(&self) -> impl Iterator<Item = &Landed> {
        self.versions.values()
    }

    /// A retained version that needs `name`.
    pub(super) fn user_of(&self, name: &ObjectName) -> Option<Version> {
        self.users.get(name)?;
        let uses = |landed: &&Landed| needs(&landed.manifest).any(|it| it == name);
        let user = self.versions.values().rev().find(uses)?;
        Some(user.manifest.version)
    }
}

/// Somebody who reads a version that is pinned for it.
pub(super) struct Reader {
    pub(super) manifest: Arc<Manifest>,
    pub(super) branch: BranchId,
    /// What the name of its pin begins with.
    pub(super) life: String,
}

/// Whether the pin is that of this clone.
pub(super) fn holds(pin: &Pin, clone: &Manifest) -> bool {
    matches!(&pin.holder, PinHolder::Clone { target, incarnation }
        if *target == clone.image && *incarnation == clone.incarnation)
}

/// Whether two versions have the same content because they are made of the same objects.
pub(super) fn same_map(one: &Manifest, other: &Manifest) -> bool {
    one.segments == other.segments
        && one.maps == other.maps
        && one.root == other.root
        && one.tail == other.tail
}
