//! `mvps image versions`: what can be rolled back to, cloned or attached to.

use std::collections::BTreeSet;

use crate::format::manifest::{Manifest, Pinned};
use crate::ids::{ImageId, Version};
use crate::protocol::ManifestError;
use crate::reachability::named_versions;

use super::report::{holder, state_word};
use super::{Admin, AdminError};

/// One version.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct VersionReport {
    /// Its number.
    pub version: u64,
    /// Its LSN.
    pub lsn: u64,
    /// When it was published, in milliseconds since 1970.
    pub published_at_unix_ms: u64,
    /// The image's size then.
    pub size_bytes: u64,
    /// What it was published as: `active`, `clean`, …
    pub state: &'static str,
    /// The epoch that published it.
    pub epoch: u64,
    /// Snapshots that name it.
    pub snapshots: Vec<String>,
    /// Who pins it.
    pub pinned_by: Vec<String>,
}

/// The versions that an image keeps.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct VersionsReport {
    /// The image.
    pub image: String,
    /// The oldest version of those that are kept without a name or pin.
    pub oldest_retained_version: u64,
    /// Versions that are kept, newest first.
    pub versions: Vec<VersionReport>,
    /// How many more are kept that are not shown.
    pub more: u64,
}

/// The newest `limit` versions that the image keeps, and all that have a name or pin.
///
/// # Errors
/// [`AdminError`].
pub async fn versions(
    admin: &Admin<'_>,
    image: &ImageId,
    limit: usize,
) -> Result<VersionsReport, AdminError> {
    let newest = admin.newest_alive(image).await?;
    let (wanted, more) = choose(&newest, limit);
    let mut reports = Vec::new();
    for version in wanted.into_iter().rev() {
        match admin.manifests.load(image, version).await {
            // A version of the image that had the name before, kept by a pin, is not this image's.
            Ok(found) if found.incarnation != newest.incarnation => {}
            Ok(found) => reports.push(report(&newest, &found)),
            // It was collected since the newest manifest was read.
            Err(ManifestError::NoSuchVersion { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(VersionsReport {
        image: image.to_string(),
        oldest_retained_version: newest.oldest_retained.0,
        versions: reports,
        more,
    })
}

/// Which versions to show, and how many are left out.
fn choose(newest: &Manifest, limit: usize) -> (BTreeSet<Version>, u64) {
    let kept = newest.oldest_retained.0..=newest.version.0;
    let first = (newest.version.0 + 1).saturating_sub(limit as u64);
    let first = first.max(newest.oldest_retained.0);
    let mut wanted: BTreeSet<Version> = (first..=newest.version.0).map(Version).collect();
    wanted.extend(named_versions(newest));
    let shown = wanted.iter().filter(|version| kept.contains(&version.0));
    let more = (kept.end() + 1 - kept.start()) - shown.count() as u64;
    (wanted, more)
}

fn report(newest: &Manifest, found: &Manifest) -> VersionReport {
    let snapshots = newest.snapshots.iter();
    let named = snapshots.filter(|snapshot| snapshot.version == found.version);
    let pinned = Pinned::Version(found.version);
    let pins = newest.pins.iter().filter(|pin| pin.pinned == pinned);
    VersionReport {
        version: found.version.0,
        lsn: found.lsn.0,
        published_at_unix_ms: found.published_at.unix_ms,
        size_bytes: found.size_bytes,
        state: state_word(found.state),
        epoch: found.tenure.epoch.0,
        snapshots: named.map(|snapshot| snapshot.name.clone()).collect(),
        pinned_by: pins.map(|pin| holder(&pin.holder)).collect(),
    }
}
