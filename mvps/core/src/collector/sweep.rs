//! Lists the keys of one image and deletes the garbage among them.
//!
//! Invariants: a key is deleted only if [`Reachable`] says so of exactly this key; what does not
//! parse as a name of mvps stays; a listing is never held whole.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{self, FuturesUnordered, StreamExt};

use super::context::Pass;
use super::report::ImageCollection;
use crate::env::{ObjectEntry, StoreError};
use crate::format::manifest::Manifest;
use crate::format::object_name::{
    ObjectName, manifest_key, manifests_prefix, objects_prefix, parse_manifest_key,
};
use crate::ids::Version;
use crate::mutant;
use crate::protocol::ManifestError;
use crate::reachability::{ManifestFate, ObjectFate, Reachable, is_tombstone};

/// Keys of one listing: S3's most.
const LIST_PAGE: usize = 1000;

/// Keys of one deletion: S3's most.
const DELETE_BATCH: usize = 1000;

/// Deletions in flight of one image: while they run, the next keys are listed.
const DELETIONS_IN_FLIGHT_MAX: usize = 4;

/// Forgotten manifests read at the same time, to see which are tombstones.
const READS_IN_FLIGHT_MAX: usize = 16;

/// Uploads aborted at the same time.
const ABORTS_IN_FLIGHT_MAX: usize = 8;

/// Everything below works on one image.
pub(super) struct Sweep<'a> {
    pub(super) pass: &'a Pass<'a>,
    pub(super) newest: &'a Manifest,
    pub(super) reachable: &'a Reachable,
    pub(super) report: &'a mut ImageCollection,
    /// What a known-bad variant takes for garbage when it is old.
    pub(super) aging: Vec<ObjectEntry>,
}

/// A variant that goes by age, as collectors without the protocol's rule do.
const BY_AGE: &str = "collection by age";

/// How old is old enough, to that variant.
const AGE: Duration = Duration::from_mins(5);

impl Sweep<'_> {
    /// Objects, uploads, manifests. What fails is in the report; the rest is done all the same.
    pub(super) async fn run(mut self) {
        if let Err(error) = self.objects().await {
            self.report.problem(format_args!("objects: {error}"));
        }
        if let Err(error) = self.uploads().await {
            self.report.problem(format_args!("uploads: {error}"));
        }
        if let Err(error) = self.manifests().await {
            self.report.problem(format_args!("manifests: {error}"));
        }
    }

    async fn objects(&mut self) -> Result<(), StoreError> {
        let pass = self.pass;
        let prefix = objects_prefix(&self.newest.image);
        let mut deletions = FuturesUnordered::new();
        let mut garbage = Vec::new();
        let mut last: Option<String> = None;
        loop {
            let page = pass.store.list(&prefix, last.as_deref(), LIST_PAGE).await?;
            let is_end = page.len() < LIST_PAGE;
            last = page.last().map(|entry| entry.key.clone());
            pass.listed(page.len());
            garbage.extend(page.into_iter().filter(|entry| self.is_garbage(entry)));
            while garbage.len() >= DELETE_BATCH || is_end && !garbage.is_empty() {
                let batch = garbage.split_off(garbage.len().saturating_sub(DELETE_BATCH));
                deletions.push(pass.delete(batch).boxed());
            }
            while deletions.len() >= DELETIONS_IN_FLIGHT_MAX || is_end {
                let Some(deleted) = deletions.next().await else {
                    break;
                };
                self.count_objects(deleted);
            }
            if is_end || pass.limit_reached() {
                break;
            }
        }
        if mutant::is(BY_AGE) {
            pass.wait(AGE).await;
            deletions.push(pass.delete(std::mem::take(&mut self.aging)).boxed());
        }
        while let Some(deleted) = deletions.next().await {
            self.count_objects(deleted);
        }
        Ok(())
    }

    /// Counts the object, and says whether it goes.
    fn is_garbage(&mut self, entry: &ObjectEntry) -> bool {
        self.report.objects += 1;
        let Ok(name) = ObjectName::parse(&entry.key) else {
            self.report.unknown_keys += 1;
            return false;
        };
        match self.reachable.object_fate(&name) {
            ObjectFate::Needed => self.report.objects_needed += 1,
            // Known to be bad: nothing needs it, and soon nobody is thought to.
            ObjectFate::Unsettled if mutant::is(BY_AGE) => self.aging.push(entry.clone()),
            ObjectFate::Unsettled => self.report.objects_unsettled += 1,
            ObjectFate::OtherImage => self.report.unknown_keys += 1,
            ObjectFate::Garbage => return true,
        }
        false
    }

    fn count_objects(&mut self, deleted: Deleted) {
        self.report.objects_deleted += deleted.keys;
        self.report.bytes_deleted += deleted.bytes;
        if let Some(problem) = deleted.problem {
            self.report.problem(problem);
        }
    }

    /// The same rule on the keys of uploads that were never finished.
    async fn uploads(&mut self) -> Result<(), StoreError> {
        let pass = self.pass;
        let prefix = objects_prefix(&self.newest.image);
        let mut uploads = pass.store.list_uploads(&prefix).await?;
        pass.listed(uploads.len());
        uploads.retain(|upload| match ObjectName::parse(&upload.key) {
            Ok(name) => self.reachable.object_fate(&name) == ObjectFate::Garbage,
            Err(_) => {
                self.report.unknown_keys += 1;
                false
            }
        });
        uploads.truncate(pass.take(uploads.len()));
        let mut aborts = stream::iter(uploads)
            .map(|it| {
                let abort = async move {
                    match pass.policy.dry_run {
                        true => Ok(()),
                        false => pass.store.abort_upload(&it.key, &it.upload).await,
                    }
                };
                abort.boxed()
            })
            .buffer_unordered(ABORTS_IN_FLIGHT_MAX);
        while let Some(aborted) = aborts.next().await {
            match aborted {
                Ok(()) => {
                    self.report.uploads_aborted += 1;
                    pass.deleted(1);
                }
                Err(error) => self
                    .report
                    .problem(format_args!("an upload stays: {error}")),
            }
        }
        Ok(())
    }

    /// Manifests below the oldest retained version, which come after it in a listing.
    async fn manifests(&mut self) -> Result<(), StoreError> {
        let pass = self.pass;
        let image = &self.newest.image;
        let prefix = manifests_prefix(image);
        let mut last = manifest_key(image, self.newest.oldest_retained);
        loop {
            let page = pass.store.list(&prefix, Some(&last), LIST_PAGE).await?;
            let is_end = page.len() < LIST_PAGE;
            pass.listed(page.len());
            if let Some(entry) = page.last() {
                last.clone_from(&entry.key);
            }
            let forgotten = self.forgotten(page).await;
            let deleted = pass.delete(forgotten).await;
            self.report.manifests_deleted += deleted.keys;
            if let Some(problem) = deleted.problem {
                self.report.problem(problem);
            }
            if is_end || pass.limit_reached() {
                return Ok(());
            }
        }
    }

    /// Those of the listed manifests that may be deleted. Each is read first: tombstones stay.
    async fn forgotten(&mut self, page: Vec<ObjectEntry>) -> Vec<ObjectEntry> {
        let pass = self.pass;
        let image = &self.newest.image;
        let mut candidates: Vec<(Version, ObjectEntry)> = Vec::new();
        for entry in page {
            match parse_manifest_key(&entry.key) {
                Ok((of, version)) if of == *image => {
                    if self.reachable.manifest_fate(version) == ManifestFate::Forgotten {
                        candidates.push((version, entry));
                    }
                }
                _ => self.report.unknown_keys += 1,
            }
        }
        let mut reads = stream::iter(candidates)
            .map(|(version, entry)| {
                let read = async move { (entry, pass.manifests.load(image, version).await) };
                read.boxed()
            })
            .buffered(READS_IN_FLIGHT_MAX);
        let mut forgotten = Vec::new();
        while let Some((entry, read)) = reads.next().await {
            match read {
                Ok(manifest) if is_tombstone(&manifest) => {}
                Ok(_) => forgotten.push(entry),
                // Another collector was here.
                Err(ManifestError::NoSuchVersion { .. }) => {}
                Err(error) => self
                    .report
                    .problem(format_args!("a manifest stays: {error}")),
            }
        }
        forgotten
    }
}

/// What a deletion did.
#[derive(Debug, Default)]
pub(super) struct Deleted {
    keys: u64,
    bytes: u64,
    problem: Option<String>,
}

impl Pass<'_> {
    /// Deletes as many of these as the limit allows, in a dry run none.
    async fn delete(&self, mut entries: Vec<ObjectEntry>) -> Deleted {
        entries.truncate(self.take(entries.len()));
        let keys: Vec<String> = entries.iter().map(|entry| entry.key.clone()).collect();
        let results = if self.policy.dry_run || keys.is_empty() {
            vec![Ok(()); keys.len()]
        } else {
            self.store.delete(&keys).await
        };
        let mut deleted = Deleted::default();
        let mut failures: Vec<StoreError> = Vec::new();
        for (entry, result) in entries.iter().zip(results) {
            match result {
                Ok(()) => {
                    deleted.keys += 1;
                    deleted.bytes += entry.size;
                }
                Err(error) => failures.push(error),
            }
        }
        if let Some(first) = failures.first() {
            let count = failures.len();
            deleted.problem = Some(format!("{count} keys could not be deleted: {first}"));
        }
        self.deleted(deleted.keys as usize);
        deleted
    }
}
