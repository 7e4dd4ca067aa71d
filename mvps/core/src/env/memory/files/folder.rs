//! The names in one folder: as processes see them, and as they are on the medium.

use std::collections::BTreeMap;

use crate::env::{Entropy, EntropyExt};

/// Which file a name means; never used twice on one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId(pub(super) u64);

/// The names in one folder. The folder's own name is always durable.
#[derive(Default)]
pub(super) struct Folder {
    /// As processes see them.
    names: BTreeMap<String, FileId>,
    /// As they are on the medium.
    durable: BTreeMap<String, FileId>,
    /// What each name came to mean since the last sync, in order; `None` is its removal.
    pending: BTreeMap<String, Vec<Option<FileId>>>,
}

impl Folder {
    pub(super) fn file(&self, name: &str) -> Option<FileId> {
        self.names.get(name).copied()
    }

    /// All names and what they mean, in order.
    pub(super) fn names(&self) -> &BTreeMap<String, FileId> {
        &self.names
    }

    /// Every file that a name means, or may mean after a power cut.
    pub(super) fn mentioned(&self) -> impl Iterator<Item = FileId> + '_ {
        let pending = self.pending.values().flatten().flatten();
        let settled = self.names.values().chain(self.durable.values());
        settled.chain(pending).copied()
    }

    /// How many changes of names a power cut could undo.
    pub(super) fn unsynced(&self) -> usize {
        self.pending.values().map(Vec::len).sum()
    }

    pub(super) fn insert(&mut self, name: &str, file: FileId) {
        self.names.insert(name.to_owned(), file);
        self.pend(name, Some(file));
    }

    /// Whether the name was there.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let was_there = self.names.remove(name).is_some();
        if was_there {
            self.pend(name, None);
        }
        was_there
    }

    fn pend(&mut self, name: &str, file: Option<FileId>) {
        self.pending.entry(name.to_owned()).or_default().push(file);
    }

    /// A name that is durable at once.
    pub(super) fn insert_durable(&mut self, name: &str, file: FileId) {
        self.names.insert(name.to_owned(), file);
        self.durable.insert(name.to_owned(), file);
    }

    /// A removal that is durable at once.
    pub(super) fn delete(&mut self, name: &str) {
        self.names.remove(name);
        self.durable.remove(name);
        self.pending.remove(name);
    }

    pub(super) fn sync(&mut self) {
        self.durable.clone_from(&self.names);
        self.pending.clear();
    }

    /// Each name means what it meant at the last sync, or anything that it came to mean since.
    pub(super) fn power_cut(&mut self, entropy: &dyn Entropy) {
        for (name, changes) in std::mem::take(&mut self.pending) {
            let kept = entropy.below(changes.len() as u64 + 1);
            let kept = usize::try_from(kept).expect("it is at most the number of changes");
            match changes[..kept].last() {
                Some(Some(file)) => drop(self.durable.insert(name, *file)),
                Some(None) => drop(self.durable.remove(&name)),
                None => {}
            }
        }
        self.names.clone_from(&self.durable);
    }
}
