//! What may be deleted (oracle 8), checked at the instant a deletion lands. This is the rule of the
//! protocol (4.1 to 4.3) told once more, by a witness who saw every manifest land and knows who
//! reads what; it shares no code with the collector.

use std::collections::BTreeSet;

use mvps_core::format::manifest::{Manifest, Pinned};
use mvps_core::format::object_name::{ObjectName, parse_manifest_key};

use super::published::{Reader, holds, needs, retains};
use super::state::{Model, State};

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
        if let Some(reader) = self.read_that_needs(&name) {
            return Some(format!("a read of {reader} needs it"));
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
