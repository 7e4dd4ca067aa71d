//! Which objects of the retired list no open view can read any more (protocol §4.6).
//!
//! A publication retires what its base used and it does not. Views that are open then, and those
//! that begin before the task reads through the new map, still read it: every map has a guard that
//! its views hold, and a retired object stays listed while a guard is alive of a map that had it.
//!
//! Must never: let an object go that an open view can reach.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use crate::engine::read::MapGuard;
use crate::format::manifest::RetiredObject;
use crate::format::object_name::ObjectName;

/// The maps that views may read through, and what was retired since they were made.
pub(super) struct Retirement {
    /// Guards of all maps that a view may still read through, by number.
    guards: BTreeMap<u64, Weak<MapGuard>>,
    /// Through which map a retired object was last reachable. Objects that an earlier process
    /// retired are not here: no view of this one reads them.
    through: BTreeMap<ObjectName, u64>,
}

impl Retirement {
    /// Views are made with `guard`, and nothing was retired.
    pub(super) fn new(guard: &Arc<MapGuard>) -> Self {
        Self {
            guards: BTreeMap::from([(guard.0, Arc::downgrade(guard))]),
            through: BTreeMap::new(),
        }
    }

    /// From now on views are made with `guard`.
    pub(super) fn reads_through(&mut self, guard: &Arc<MapGuard>) {
        self.guards.insert(guard.0, Arc::downgrade(guard));
        self.guards.retain(|_, guard| guard.strong_count() > 0);
    }

    /// Whether a view reads through a map before number `map`.
    pub(super) fn reads_earlier_map(&self, map: u64) -> bool {
        self.guards
            .range(..map)
            .any(|(_, guard)| guard.strong_count() > 0)
    }

    /// What of `retired` no open view can read.
    pub(super) fn released(&self, retired: &[RetiredObject]) -> BTreeSet<ObjectName> {
        let open = self
            .guards
            .iter()
            .filter(|(_, guard)| guard.strong_count() > 0);
        let oldest_open = open.map(|(number, _)| *number).min().unwrap_or(u64::MAX);
        let reachable = |name: &ObjectName| {
            let through = self.through.get(name);
            let early = u64::from(crate::mutant::is("released one view early"));
            through.is_some_and(|through| *through >= oldest_open + early)
                && !crate::mutant::is("retired objects forgotten")
        };
        let names = retired.iter().map(|retired| &retired.name);
        names.filter(|name| !reachable(name)).cloned().collect()
    }

    /// A publication counted whose retired list is `newest` and was `before`: what it added is still
    /// read through the current map.
    pub(super) fn note(&mut self, before: &[RetiredObject], newest: &[RetiredObject]) {
        let current = self.guards.keys().next_back().copied().unwrap_or(0);
        let listed = |list: &[RetiredObject]| -> BTreeSet<ObjectName> {
            list.iter().map(|retired| retired.name.clone()).collect()
        };
        let (before, newest) = (listed(before), listed(newest));
        self.through.retain(|name, _| newest.contains(name));
        for name in newest.difference(&before) {
            self.through.insert(name.clone(), current);
        }
    }
}

#[cfg(test)]
mod tests;
