//! `mvps image rollback IMAGE@NAME`, or to a version: of an image that has no active writer. The
//! server of an open image does it itself (protocol §5.5; `engine`).

use crate::format::manifest::{ImageState, Manifest};
use crate::ids::{ImageId, Version};
use crate::protocol::{compose_rollback, is_retained, leave_mark, next_tenure};
use crate::token::Shown;

use super::publishing::Step;
use super::snapshot::find;
use super::{Admin, AdminError, named};

/// A rollback that was done.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RolledBack {
    /// The image.
    pub image: String,
    /// The version whose content it has again.
    pub to_version: u64,
    /// The version that has it now.
    pub version: u64,
    /// The version before: rolling back to it undoes this, until it is collected.
    pub undo_version: u64,
    /// The new version's LSN.
    pub lsn: u64,
}

/// Which version `shown` is in `newest`, which keeps it.
///
/// # Errors
/// [`AdminError::NoSuchSnapshot`], [`AdminError::VersionGone`].
pub fn resolve(newest: &Manifest, shown: &Shown) -> Result<Version, AdminError> {
    let image = newest.image.clone();
    match shown {
        Shown::Newest => Ok(newest.version),
        Shown::Version(version) if is_retained(newest, *version) => Ok(*version),
        Shown::Version(version) => Err(AdminError::VersionGone {
            image,
            version: *version,
        }),
        Shown::Snapshot(name) => match find(newest, name) {
            Some(snapshot) => Ok(snapshot.version),
            None => Err(AdminError::NoSuchSnapshot {
                image,
                name: name.clone(),
            }),
        },
    }
}

impl Admin<'_> {
    /// The manifest of the version that `shown` is in `newest`, with the data keys of that.
    pub(crate) async fn load_shown(
        &self,
        newest: &Manifest,
        shown: &Shown,
    ) -> Result<Manifest, AdminError> {
        let version = resolve(newest, shown)?;
        let mut found = self.manifests.load(&newest.image, version).await?;
        if found.incarnation == newest.incarnation {
            // The same keys, wrapped with the root key of now.
            found.data_keys.clone_from(&newest.data_keys);
            return Ok(found);
        }
        // A pin keeps it, of the image that had the name before.
        let image = newest.image.clone();
        Err(AdminError::VersionGone { image, version })
    }
}

/// Makes a clean image what it was in the version `to`, in a new version.
///
/// # Errors
/// [`AdminError`].
pub async fn roll_back(
    admin: &Admin<'_>,
    image: &ImageId,
    to: &Shown,
) -> Result<RolledBack, AdminError> {
    let newest = admin.newest_alive(image).await?;
    let target = admin.load_shown(&newest, to).await?;
    let step = |newest: &Manifest, mark| {
        if newest.state != ImageState::Clean {
            return Err(AdminError::NotClean {
                image: image.clone(),
                owner: named(&newest.owner),
                advice: "run this with the --buffer-store-path of that server, so that it rolls \
                         back itself, or let it close the image first",
            });
        }
        if !is_retained(newest, target.version) {
            return Err(AdminError::VersionGone {
                image: image.clone(),
                version: target.version,
            });
        }
        let tenure = next_tenure(Some(newest), admin.entropy);
        let lsn = newest.lsn.next();
        let mut body = compose_rollback(newest, &target, tenure, lsn, admin.clock.wall())?;
        leave_mark(&mut body, mark);
        let done = RolledBack {
            image: image.to_string(),
            to_version: target.version.0,
            version: body.version.0,
            undo_version: newest.version.0,
            lsn: lsn.0,
        };
        Ok(Step::Publish(Box::new(body), done))
    };
    let (_, done) = admin.publish(image, step).await?;
    tracing::info!(%image, to = done.to_version, version = done.version, "rolled back");
    Ok(done)
}
