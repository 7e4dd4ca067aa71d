//! `mvps image rekey`: the image's data keys, and those of images that it shares segments with, are
//! wrapped with the first root key. No segment is touched, and whoever serves the image goes on: it
//! has the data keys, which stay the same.
//!
//! Versions of before keep their copies, wrapped as they were, until the collector takes them; what
//! reads an earlier version takes the keys of the newest.

use std::collections::BTreeSet;

use crate::encryption::{KeyError, RootKeyId, WrappedDataKey};
use crate::format::manifest::{ImageState, Manifest};
use crate::ids::ImageId;
use crate::protocol::OthersPart;

use super::{Admin, AdminError, named};

/// An image whose keys are wrapped with the first root key.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Rekeyed {
    /// Its name.
    pub image: String,
    /// The version that says so.
    pub version: u64,
    /// The id of the root key.
    pub root_key: String,
    /// Data keys that were wrapped again; 0 if all of them had been.
    pub data_keys: u64,
    /// Root keys that they were wrapped with before, and that the image needs no more.
    pub replaced: Vec<String>,
    /// The server that is the active writer; it needs the root key when it opens it again.
    pub active_writer: Option<String>,
}

/// Wraps the data keys of `image` with the first root key.
///
/// # Errors
/// [`AdminError`].
pub async fn rekey(admin: &Admin<'_>, image: &ImageId) -> Result<Rekeyed, AdminError> {
    let (roots, entropy) = (admin.root_keys, admin.entropy);
    let first = roots.first().ok_or(KeyError::NothingToWrapWith)?.id();
    let wrap = |newest: &Manifest, part: &mut OthersPart| {
        if part.data_keys.is_empty() {
            let image = image.clone();
            return Err(KeyError::NothingToRekey { image }.into());
        }
        let before: Vec<RootKeyId> = newest.data_keys.iter().map(|key| key.root).collect();
        let again = |key: &WrappedDataKey| key.wrapped_again(roots, image, entropy);
        let wrapped: Result<_, KeyError> = newest.data_keys.iter().map(again).collect();
        part.data_keys = wrapped?;
        Ok(before.into_iter().filter(|root| *root != first).collect())
    };
    let (newest, replaced): (_, Vec<RootKeyId>) = admin.publish_part(image, wrap).await?;
    let distinct: BTreeSet<_> = replaced.iter().copied().collect();
    tracing::info!(%image, root_key = %first, data_keys = replaced.len(), "rekeyed");
    let active = newest.state == ImageState::Active;
    Ok(Rekeyed {
        image: image.to_string(),
        version: newest.version.0,
        root_key: first.to_string(),
        data_keys: replaced.len() as u64,
        replaced: distinct.into_iter().map(|root| root.to_string()).collect(),
        active_writer: active.then(|| named(&newest.owner)),
    })
}
