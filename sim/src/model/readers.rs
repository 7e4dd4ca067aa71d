//! Who reads a published version, and what clones are made of: content that must not change
//! whatever is written, collected, rolled back or deleted meanwhile.

use std::sync::Arc;

use bytes::Bytes;
use mvps_core::format::manifest::{ImageState, Manifest, Pinned};
use mvps_core::ids::Version;

use super::content::Pages;
use super::history::BranchId;
use super::published::{Landed, Reader, holds, same_map};
use super::state::{Model, State};

impl Model {
    /// `reader` was told that the version is pinned for it.
    pub fn reader_pinned(&self, reader: &str, manifest: &Manifest) {
        let mut state = self.state();
        self.journal.checked(8);
        let landed = state.published.version(manifest.version);
        let landed = landed.filter(|it| is_but_for_keys(&it.manifest, manifest));
        let Some(landed) = landed else {
            self.journal.fail(
                "8 (collection)",
                format_args!(
                    "{reader} pinned version {} of {}, which is not retained",
                    manifest.version, self.image
                ),
            );
        };
        let entry = Reader {
            manifest: Arc::clone(&landed.manifest),
            branch: landed.branch,
        };
        state.readers.insert(reader.to_owned(), entry);
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
        let entry = &state.readers[reader];
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

/// Whether a manifest is the one that landed: a reader has its data keys as they are wrapped now.
fn is_but_for_keys(landed: &Manifest, read: &Manifest) -> bool {
    let data_keys = landed.data_keys.clone();
    *landed
        == Manifest {
            data_keys,
            ..read.clone()
        }
}
