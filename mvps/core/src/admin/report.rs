//! What an operator sees of an image: `mvps image show` and `mvps image list`.

use std::collections::BTreeSet;

use crate::format::manifest::{ImageState, Manifest, Pin, PinHolder, Pinned, Snapshot, Takeover};
use crate::ids::ImageId;
use crate::protocol::ManifestStore;

use super::reader_life::PinName;
use super::{AdminError, ReaderLife};

/// Everything about an image that its newest manifest says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ImageReport {
    /// Its name.
    pub image: String,
    /// `active`, `clean`, `deleted` or `abandoned`.
    pub state: &'static str,
    /// Host and process of the server that is, or was, the active writer; may be empty.
    pub owner: String,
    /// The number of the last epoch.
    pub epoch: u64,
    /// The id of the last tenure.
    pub tenure: String,
    /// The newest version.
    pub version: u64,
    /// The oldest version that is kept.
    pub oldest_retained_version: u64,
    /// When the newest version was published, in milliseconds since 1970.
    pub published_at_unix_ms: u64,
    /// The LSN of the newest version.
    pub lsn: u64,
    /// The image's size.
    pub size_bytes: u64,
    /// Its page size.
    pub page_size_bytes: u64,
    /// Which life of the name this is.
    pub incarnation: String,
    /// The root key that the image's data key is wrapped with; `None` if it is not encrypted.
    pub root_key: Option<String>,
    /// Other root keys, which data keys of images are wrapped with that it shares segments with.
    pub other_root_keys: Vec<String>,
    /// Segments in use.
    pub segments: u64,
    /// Map objects in use.
    pub map_objects: u64,
    /// Bytes that the segments and map objects in use take.
    pub stored_bytes: u64,
    /// Objects that wait for their last readers.
    pub retired_objects: u64,
    /// Named versions.
    pub snapshots: Vec<SnapshotReport>,
    /// Pins.
    pub pins: Vec<PinReport>,
    /// Takeovers, oldest first.
    pub takeovers: Vec<TakeoverReport>,
}

/// A named version.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SnapshotReport {
    /// Its name.
    pub name: String,
    /// The version.
    pub version: u64,
    /// When it was made, in milliseconds since 1970.
    pub created_at_unix_ms: u64,
}

/// A pin.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PinReport {
    /// `reader NAME` or `clone IMAGE`.
    pub holder: String,
    /// The stable id of the reader's server; `None` of a clone's pin.
    pub stable_id: Option<String>,
    /// The reader's life; `None` of a clone's pin, and of one of an earlier release.
    pub life: Option<String>,
    /// Whether that is the `present` life of the server that was asked about, or an `ended` one.
    pub life_is: Option<&'static str>,
    /// The version it keeps, if it keeps a whole version.
    pub version: Option<u64>,
    /// How many objects it keeps, if it keeps objects.
    pub objects: Option<u64>,
}

/// A takeover.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TakeoverReport {
    /// The epoch that lost the image.
    pub from_epoch: u64,
    /// The tenure that lost it.
    pub from_tenure: String,
    /// The LSN that the image went back to.
    pub at_lsn: u64,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
}

/// One row of the list of images.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ImageRow {
    /// Its name.
    pub image: String,
    /// What its newest manifest says; `None` if the name has no manifest or it cannot be read.
    pub report: Option<ImageReport>,
    /// Why there is no report.
    pub problem: Option<String>,
}

fn count<T>(list: &[T]) -> u64 {
    list.len() as u64
}

fn other_root_keys(manifest: &Manifest) -> Vec<String> {
    let own = manifest.own_data_key().map(|key| key.root);
    let all: BTreeSet<_> = manifest.data_keys.iter().map(|key| key.root).collect();
    let others = all.into_iter().filter(|root| Some(*root) != own);
    others.map(|root| root.to_string()).collect()
}

impl ImageReport {
    /// The report of `manifest`.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        let segments = manifest.segments.iter().map(|entry| entry.size_bytes);
        let maps = manifest.maps.iter().map(|entry| entry.size_bytes);
        Self {
            image: manifest.image.to_string(),
            state: state_word(manifest.state),
            owner: manifest.owner.clone(),
            epoch: manifest.tenure.epoch.0,
            tenure: manifest.tenure.id.to_string(),
            version: manifest.version.0,
            oldest_retained_version: manifest.oldest_retained.0,
            published_at_unix_ms: manifest.published_at.unix_ms,
            lsn: manifest.lsn.0,
            size_bytes: manifest.size_bytes,
            page_size_bytes: manifest.page_size.bytes() as u64,
            incarnation: manifest.incarnation.to_string(),
            root_key: manifest.own_data_key().map(|key| key.root.to_string()),
            other_root_keys: other_root_keys(manifest),
            segments: count(&manifest.segments),
            map_objects: count(&manifest.maps),
            stored_bytes: segments.chain(maps).fold(0, u64::saturating_add),
            retired_objects: count(&manifest.retired),
            snapshots: manifest.snapshots.iter().map(SnapshotReport::of).collect(),
            pins: manifest.pins.iter().map(PinReport::of).collect(),
            takeovers: manifest.takeovers.iter().map(TakeoverReport::of).collect(),
        }
    }
}

impl SnapshotReport {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        Self {
            name: snapshot.name.clone(),
            version: snapshot.version.0,
            created_at_unix_ms: snapshot.created_at.unix_ms,
        }
    }
}

impl PinReport {
    pub(super) fn of(pin: &Pin) -> Self {
        Self::seen_by(pin, None)
    }

    /// As the server sees it that lives the life `present`.
    pub(super) fn seen_by(pin: &Pin, present: Option<&ReaderLife>) -> Self {
        let reader = match &pin.holder {
            PinHolder::Reader(name) => Some(PinName::of(name)),
            PinHolder::Clone { .. } => None,
        };
        let life = reader.as_ref().and_then(|name| name.life.as_ref());
        let life_is = reader.as_ref().and_then(|name| match present? {
            present if life == Some(present) => Some("present"),
            present if present.has_outlived(name) => Some("ended"),
            _ => None,
        });
        let (version, objects) = match &pin.pinned {
            Pinned::Version(version) => (Some(version.0), None),
            Pinned::Objects(names) => (None, Some(count(names))),
        };
        Self {
            holder: holder(&pin.holder),
            stable_id: reader.as_ref().map(|name| name.stable().to_owned()),
            life: life.map(ReaderLife::to_string),
            life_is,
            version,
            objects,
        }
    }
}

impl TakeoverReport {
    fn of(takeover: &Takeover) -> Self {
        Self {
            from_epoch: takeover.from.epoch.0,
            from_tenure: takeover.from.id.to_string(),
            at_lsn: takeover.at_lsn.0,
            at_unix_ms: takeover.at.unix_ms,
        }
    }
}

/// A pin's holder for people.
pub(super) fn holder(holder: &PinHolder) -> String {
    match holder {
        PinHolder::Reader(id) => format!("reader {id}"),
        PinHolder::Clone { target, .. } => format!("clone {target}"),
    }
}

/// A state for people.
pub(super) fn state_word(state: ImageState) -> &'static str {
    match state {
        ImageState::Active => "active",
        ImageState::Clean => "clean",
        ImageState::Tombstone => "deleted",
        ImageState::Abandoned => "abandoned",
    }
}

/// What the newest manifest of `image` says. Also of one that was deleted.
///
/// # Errors
/// [`AdminError::NoSuchImage`], [`AdminError::Manifest`].
pub async fn show(manifests: &ManifestStore, image: &ImageId) -> Result<ImageReport, AdminError> {
    match manifests.newest(image).await? {
        Some(manifest) => Ok(ImageReport::of(&manifest)),
        None => Err(AdminError::NoSuchImage {
            image: image.clone(),
        }),
    }
}

/// All names that have, or had, an image, in ascending order: two requests each. One that cannot
/// be read is listed with its problem, so that one damaged image does not hide the others.
///
/// # Errors
/// [`AdminError::Store`] if the names themselves cannot be listed.
pub async fn list(manifests: &ManifestStore) -> Result<Vec<ImageRow>, AdminError> {
    let mut rows = Vec::new();
    for image in manifests.list_images().await? {
        let (report, problem) = match show(manifests, &image).await {
            Ok(report) => (Some(report), None),
            Err(error) => (None, Some(error.to_string())),
        };
        rows.push(ImageRow {
            image: image.to_string(),
            report,
            problem,
        });
    }
    Ok(rows)
}
