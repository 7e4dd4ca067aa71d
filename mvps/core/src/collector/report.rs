//! What a collection did, for people and machines.

use std::collections::BTreeSet;

use crate::ids::ImageId;

/// What one pass did, or in a dry run would have done.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct CollectionReport {
    /// Nothing was published or deleted.
    pub dry_run: bool,
    /// The limit on deletions was reached: the next pass goes on.
    pub limit_reached: bool,
    /// The images that were looked at, by name.
    pub images: Vec<ImageCollection>,
}

/// What was done to one image.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct ImageCollection {
    /// Its name.
    pub image: String,
    /// The newest version that was looked at.
    pub newest_version: Option<u64>,
    /// The oldest version that is retained.
    pub oldest_retained_version: Option<u64>,
    /// Versions that were forgotten.
    pub versions_forgotten: u64,
    /// Clones whose pins were released.
    pub pins_released: BTreeSet<String>,
    /// Clones that never appeared and never will.
    pub clones_abandoned: BTreeSet<String>,
    /// Objects under the image's name.
    pub objects: u64,
    /// Of those, objects that are needed.
    pub objects_needed: u64,
    /// Of those, objects that nothing needs, but that a publication yet unseen may.
    pub objects_unsettled: u64,
    /// Objects that were deleted.
    pub objects_deleted: u64,
    /// How many bytes they had.
    pub bytes_deleted: u64,
    /// Manifests that were deleted.
    pub manifests_deleted: u64,
    /// Unfinished uploads that were aborted.
    pub uploads_aborted: u64,
    /// Keys that are no names of mvps. They stay.
    pub unknown_keys: u64,
    /// What failed. It is tried again by the next pass.
    pub problems: Vec<String>,
}

/// Most problems that are kept of one image: a store that refuses everything would fill memory.
const PROBLEMS_MAX: usize = 32;

impl ImageCollection {
    /// Nothing was done to `image` yet.
    #[must_use]
    pub fn of(image: &ImageId) -> Self {
        Self {
            image: image.to_string(),
            ..Self::default()
        }
    }

    /// Notes what went wrong.
    pub fn problem(&mut self, problem: impl std::fmt::Display) {
        let image = &self.image;
        tracing::warn!(image, %problem, "collecting");
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem.to_string());
        }
    }
}

impl CollectionReport {
    /// Whether everything was done that was to be done. Reaching the limit is no failure.
    #[must_use]
    pub fn all_went_well(&self) -> bool {
        self.images.iter().all(|image| image.problems.is_empty())
    }

    /// Objects, manifests and uploads that were deleted.
    #[must_use]
    pub fn deleted(&self) -> u64 {
        let deleted = |image: &ImageCollection| {
            image.objects_deleted + image.manifests_deleted + image.uploads_aborted
        };
        self.images.iter().map(deleted).sum()
    }
}

/// How far a pass is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Images of the pass.
    pub images: u64,
    /// Images that are done.
    pub images_done: u64,
    /// Keys that were listed.
    pub listed: u64,
    /// Keys that were deleted.
    pub deleted: u64,
}

/// Is told how far a pass is, often.
pub trait Observer: Send + Sync {
    /// The pass is this far.
    fn progress(&self, progress: Progress);
}

/// Nobody looks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn progress(&self, _progress: Progress) {}
}
