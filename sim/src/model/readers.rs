//! Who reads a published version, and what clones are made of: content that must not change
//! whatever is written, collected, rolled back or deleted meanwhile.

use std::sync::Arc;

use bytes::Bytes;
use mvps_core::format::manifest::{ImageState, Manifest, Pin, PinHolder, Pinned};
use mvps_core::ids::Version;

use super::content::Pages;
use super::history::BranchId;
use super::published::{Landed, Reader, holds, same_map};
use super::reads::TROUBLE_TIME;
use super::state::{Model, State};
use crate::journal;

impl Model {
    /// `reader` was told that the version, of so many bytes, is pinned in the name of its `life`.
    pub fn reader_pinned(&self, reader: &str, life: &str, version: Version, size_bytes: u64) {
        let mut state = self.state();
        self.journal.checked(8);
        let Some(landed) = state.published.version(version) else {
            self.journal.fail(
                "8 (collection)",
                format_args!(
                    "{reader} pinned version {version} of {}, which is not retained",
                    self.image
                ),
            );
        };
        if landed.manifest.size_bytes != size_bytes {
            self.journal.fail(
                "5 (reads)",
                format_args!("{reader} serves version {version} with {size_bytes} bytes"),
            );
        }
        let entry = Reader {
            manifest: Arc::clone(&landed.manifest),
            branch: landed.branch,
            life: life.to_owned(),
        };
        state.readers.insert(reader.to_owned(), entry);
        if let Some(newest) = state.newest.clone() {
            self.check_reader_pins(&state, "somebody", &newest);
        }
    }

    /// Everybody who reads has a pin of its own in the newest manifest, as long as it reads.
    pub(super) fn check_reader_pins(&self, state: &State, client: &str, newest: &Manifest) {
        for (reader, entry) in &state.readers {
            self.journal.checked(8);
            let pinned = Pinned::Version(entry.manifest.version);
            let is_its = |pin: &Pin| match &pin.holder {
                PinHolder::Reader(name) => name.starts_with(&entry.life) && pin.pinned == pinned,
                PinHolder::Clone { .. } => false,
            };
            if !newest.pins.iter().any(is_its) {
                self.journal.fail(
                    "8 (landing)",
                    format_args!(
                        "version {} of {}, by {client}, has no pin of {reader}, which reads \
                         version {}",
                        newest.version, self.image, entry.manifest.version
                    ),
                );
            }
        }
    }

    /// The names of readers' pins in the newest manifest.
    #[must_use]
    pub fn reader_pins(&self) -> Vec<String> {
        let newest = self.state().newest.clone();
        let pins = newest.iter().flat_map(|newest| &newest.pins);
        pins.filter_map(|pin| match &pin.holder {
            PinHolder::Reader(name) => Some(name.clone()),
            PinHolder::Clone { .. } => None,
        })
        .collect()
    }

    /// A version that was published not long ago, by a number below how many there are.
    #[must_use]
    pub fn some_version(&self, choose: impl FnOnce(u64) -> u64) -> Option<Version> {
        let state = self.state();
        let has_content = |it: &&Landed| {
            let gone = [ImageState::Tombstone, ImageState::Abandoned];
            !gone.contains(&it.manifest.state)
        };
        let versions = state.published.versions().filter(has_content);
        let versions: Vec<Version> = versions.map(|it| it.manifest.version).collect();
        let chosen = usize::try_from(choose(versions.len() as u64)).ok()?;
        versions.get(chosen).copied()
    }

    /// `reader` reads no more: it is about to let go of its pin, or it died.
    pub fn reader_ended(&self, reader: &str) {
        self.state().readers.remove(reader);
    }

    /// `reader` read `bytes` of the version that it pinned. Whether that is gone from the newest
    /// manifest's history by now.
    pub fn version_read(&self, reader: &str, offset: u64, bytes: &Bytes) -> bool {
        let state = self.state();
        let Some(entry) = state.readers.get(reader) else {
            // The answer was on its way when its server let go.
            return false;
        };
        let (branch, lsn) = (entry.branch, entry.manifest.lsn);
        self.journal.checked(2);
        self.journal.checked(5);
        if state.damaged {
            self.journal.checked(12);
        }
        if !self.holds(&state, branch, lsn, &[], offset, bytes) {
            let place = self.first_difference(&state, branch, lsn, offset, bytes);
            self.journal.fail(
                "5 (reads)",
                format_args!(
                    "{reader} read version {} of {}, which is something else: {place}",
                    entry.manifest.version, self.image
                ),
            );
        }
        let newest = state.newest.as_ref();
        newest.is_some_and(|it| entry.manifest.version < it.oldest_retained)
    }

    /// `reader` cannot read the version that it pinned: only damage and a store that did not answer
    /// excuse that.
    pub fn version_not_read(&self, reader: &str, reason: &str) {
        let state = self.state();
        let Some(entry) = state.readers.get(reader) else {
            return;
        };
        let lately = journal::now().saturating_sub(TROUBLE_TIME);
        let in_trouble = state.trouble.get(reader).is_some_and(|at| *at >= lately);
        if !state.damaged && !in_trouble {
            self.journal.fail(
                "5 (reads)",
                format_args!(
                    "{reader} pinned version {} of {}, and cannot read what nothing damaged: \
                     {reason}",
                    entry.manifest.version, self.image
                ),
            );
        }
    }

    /// The content of the version that `clone` was made of, if that is this image's.
    pub(super) fn content_cloned_as(&self, clone: &Manifest) -> Option<Pages> {
        let state = self.state();
        let newest = state.newest.as_ref()?;
        let pins = newest.pins.iter().filter(|pin| holds(pin, clone));
        let versions = pins.filter_map(|pin| match pin.pinned {
            Pinned::Version(version) => state.published.version(version),
            Pinned::Objects(_) => None,
        });
        let mut origins = versions.filter(|landed| same_map(&landed.manifest, clone));
        let origin = origins.next()?;
        Some(self.content_at(&state, origin.branch, origin.manifest.lsn))
    }

    fn content_at(&self, state: &State, branch: BranchId, lsn: mvps_core::ids::Lsn) -> Pages {
        let pages = self.areas.pages();
        pages
            .map(|page| (page, state.history.page(branch, lsn, page)))
            .filter(|(_, content)| content.is_some())
            .collect()
    }
}
