//! What may be deleted (oracle 8), checked at the instant a deletion lands. This is the rule of the
//! protocol (4.1 to 4.3) told once more, by a witness who saw every manifest land and knows who
//! reads what; it shares no code with the collector.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mvps_core::format::manifest::{Manifest, Office, Pin, PinHolder, Pinned};
use mvps_core::format::object_name::{ObjectName, parse_manifest_key};
use mvps_core::ids::Version;

use super::history::BranchId;
use super::readers::Reader;
use super::{Model, State};

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
    tombstones: BTreeSet<Version>,
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
        if matches!(manifest.office, Office::Tombstone | Office::Abandoned) {
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
    fn user_of(&self, name: &ObjectName) -> Option<Version> {
        self.users.get(name)?;
        let uses = |landed: &&Landed| needs(&landed.manifest).any(|it| it == name);
        let user = self.versions.values().rev().find(uses)?;
        Some(user.manifest.version)
    }
}

impl State {
    /// Why `key`, which is this image's, must stay.
    fn objection(&self, newest: &Manifest, key: &str) -> Option<String> {
        if let Ok((_, version)) = parse_manifest_key(key) {
            if retains(newest, version) {
                return Some("it is retained".to_owned());
            }
            if self.published.tombstones.contains(&version) {
                return Some("it is a tombstone".to_owned());
            }
            let mut readers = self.readers.values();
            let is_read = readers.any(|it| it.manifest.version == version);
            return is_read.then(|| "somebody reads it".to_owned());
        }
        let name = ObjectName::parse(key).ok()?;
        if newest.retired.iter().any(|it| it.name == name) {
            return Some("views may read it".to_owned());
        }
        for pin in &newest.pins {
            if matches!(&pin.pinned, Pinned::Objects(names) if names.contains(&name)) {
                return Some("it is pinned".to_owned());
            }
        }
        if let Some(user) = self.needed_by(&name) {
            return Some(user);
        }
        let epoch = newest.tenure.epoch;
        let settled = name.epoch < epoch
            || name.epoch == epoch
                && name.incarnation == newest.incarnation
                && name.sequence < newest.watermark;
        (!settled).then(|| "it may be published yet".to_owned())
    }

    /// Which retained version or reader of this image needs an object, of whatever image.
    fn needed_by(&self, name: &ObjectName) -> Option<String> {
        if let Some(version) = self.published.user_of(name) {
            return Some(format!("version {version} needs it"));
        }
        let reads = |(_, reader): &(&String, &Reader)| needs(&reader.manifest).any(|it| it == name);
        let (reader, _) = self.readers.iter().find(reads)?;
        Some(format!("{reader} reads it"))
    }
}

impl Model {
    /// Why `key`, of this image, must stay; `None` if it may go.
    pub(super) fn objection(&self, key: &str) -> Option<String> {
        let state = self.state();
        let newest = state.newest.as_ref()?;
        state.objection(newest, key)
    }

    /// Why `name`, of another image, must stay for this one.
    pub(super) fn objection_of_sharer(&self, name: &ObjectName) -> Option<String> {
        let user = self.state().needed_by(name)?;
        Some(format!("{} shares it: {user}", self.image))
    }

    /// Whether a version of this image that is retained, or a pin's list, protects all of `names`
    /// for the clone `target` in the life `incarnation`.
    pub(super) fn pins_for<'a>(
        &self,
        clone: &Manifest,
        mut names: impl Iterator<Item = &'a ObjectName>,
    ) -> bool {
        let state = self.state();
        let Some(newest) = &state.newest else {
            return false;
        };
        let mut kept: BTreeSet<&ObjectName> = BTreeSet::new();
        for pin in newest.pins.iter().filter(|pin| holds(pin, clone)) {
            match &pin.pinned {
                Pinned::Objects(names) => kept.extend(names),
                Pinned::Version(version) => {
                    let landed = state.published.version(*version);
                    kept.extend(landed.into_iter().flat_map(|it| needs(&it.manifest)));
                }
            }
        }
        names.all(|name| kept.contains(name))
    }
}

/// Whether the pin is that of this clone.
pub(super) fn holds(pin: &Pin, clone: &Manifest) -> bool {
    matches!(&pin.holder, PinHolder::Clone { target, incarnation }
        if *target == clone.image && *incarnation == clone.incarnation)
}
