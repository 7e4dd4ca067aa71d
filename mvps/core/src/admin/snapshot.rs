//! `mvps snapshot create|list|delete`: names for versions.
//!
//! A snapshot is a line in the manifest: made and deleted by one publication, whatever the image
//! holds. It keeps its version, and everything that this references, until it is deleted.

use crate::format::manifest::{ImageState, Manifest, Pinned, Snapshot};
use crate::ids::{ImageId, Version};
use crate::protocol::is_retained;

use super::report::{SnapshotReport, holder};
use super::{Admin, AdminError};

/// A snapshot that was made.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SnapshotCreated {
    /// The image.
    pub image: String,
    /// The snapshot.
    pub snapshot: String,
    /// What it names.
    pub version: u64,
    /// The LSN of the image's newest version when it was made.
    pub lsn: u64,
    /// The server that is the active writer, which may hold newer data than the snapshot unless it
    /// was asked for a checkpoint; `None` if nobody is.
    pub active_writer: Option<String>,
}

/// Names `version`, or the newest.
///
/// # Errors
/// [`AdminError`].
pub async fn create_snapshot(
    admin: &Admin<'_>,
    image: &ImageId,
    name: &str,
    version: Option<Version>,
) -> Result<SnapshotCreated, AdminError> {
    if ImageId::parse(name).is_err() {
        return Err(AdminError::InvalidSnapshotName {
            name: name.to_owned(),
        });
    }
    let add = |newest: &Manifest, part: &mut crate::protocol::OthersPart| {
        if let Some(taken) = find(newest, name) {
            return Err(AdminError::SnapshotExists {
                image: image.clone(),
                name: name.to_owned(),
                version: taken.version,
            });
        }
        let version = version.unwrap_or(newest.version);
        if !is_retained(newest, version) {
            return Err(AdminError::VersionGone {
                image: image.clone(),
                version,
            });
        }
        part.snapshots.push(Snapshot {
            name: name.to_owned(),
            version,
            created_at: admin.clock.wall(),
        });
        Ok((version, newest.lsn))
    };
    let (newest, (version, lsn)) = admin.publish_part(image, add).await?;
    let active = newest.state == ImageState::Active;
    Ok(SnapshotCreated {
        image: image.to_string(),
        snapshot: name.to_owned(),
        version: version.0,
        lsn: lsn.0,
        active_writer: active.then(|| super::named(&newest.owner)),
    })
}

/// A snapshot that was deleted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SnapshotDeleted {
    /// The image.
    pub image: String,
    /// The snapshot.
    pub snapshot: String,
    /// What it named.
    pub version: u64,
    /// Who still pins that version.
    pub pinned_by: Vec<String>,
}

/// Takes the name `name` away; what pins keep stays. With `force` also while its version is pinned.
///
/// # Errors
/// [`AdminError`].
pub async fn delete_snapshot(
    admin: &Admin<'_>,
    image: &ImageId,
    name: &str,
    force: bool,
) -> Result<SnapshotDeleted, AdminError> {
    let remove = |newest: &Manifest, part: &mut crate::protocol::OthersPart| {
        let snapshot = find(newest, name).ok_or_else(|| AdminError::NoSuchSnapshot {
            image: image.clone(),
            name: name.to_owned(),
        })?;
        let pinned = Pinned::Version(snapshot.version);
        let pins = newest.pins.iter().filter(|pin| pin.pinned == pinned);
        let holders: Vec<String> = pins.map(|pin| holder(&pin.holder)).collect();
        if !holders.is_empty() && !force {
            return Err(AdminError::SnapshotPinned {
                image: image.clone(),
                name: name.to_owned(),
                holders: holders.join(", "),
            });
        }
        part.snapshots.retain(|snapshot| snapshot.name != name);
        if crate::mutant::is("snapshot delete that forgets pins") {
            part.pins.retain(|pin| pin.pinned != pinned);
        }
        Ok((snapshot.version, holders))
    };
    let (_, (version, pinned_by)) = admin.publish_part(image, remove).await?;
    Ok(SnapshotDeleted {
        image: image.to_string(),
        snapshot: name.to_owned(),
        version: version.0,
        pinned_by,
    })
}

/// The snapshots of an image, ascending by name.
///
/// # Errors
/// [`AdminError`].
pub async fn snapshots(
    admin: &Admin<'_>,
    image: &ImageId,
) -> Result<Vec<SnapshotReport>, AdminError> {
    let newest = admin.newest_alive(image).await?;
    Ok(newest.snapshots.iter().map(SnapshotReport::of).collect())
}

pub(super) fn find<'a>(newest: &'a Manifest, name: &str) -> Option<&'a Snapshot> {
    newest
        .snapshots
        .iter()
        .find(|snapshot| snapshot.name == name)
}
