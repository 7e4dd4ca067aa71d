//! Reads and creates the manifests of an image in object storage.
//!
//! Invariants: the newest manifest is the first of a listing; a manifest's bytes are believed only
//! if they decode as the manifest of that image and version.
//!
//! Must never: replace or delete a manifest, or take an unreadable one for an absent one.

use crate::env::{GetRange, StoreError};
use crate::format::codec::FormatError;
use crate::format::manifest::Manifest;
use crate::format::object_name::{
    images_prefix, manifest_key, manifests_prefix, parse_image_folder, parse_manifest_key,
};
use crate::ids::{ImageId, Version};
use crate::store::{Patience, RetryingStore};

/// Reads of a manifest that does not decode: where every tenth read is damaged on the way, one look
/// in a million ends a tenure.
const READS_MAX: u32 = 6;

/// How often the newest manifest may be deleted between its listing and its reading before that
/// is taken for a fault: each time, somebody published a newer one and the collector forgot it,
/// within one request's time.
const VANISHED_MAX: usize = 16;

/// How many manifests one request lists.
const LIST_PAGE: usize = 1000;

/// A published state that content is compared with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Since {
    /// A version.
    Version(Version),
    /// A snapshot, by its name.
    Snapshot(String),
}

/// Why a manifest could not be read, by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The store did not answer, or refused.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// There is no such version (any more).
    #[error("image {image} has no version {version}")]
    NoSuchVersion {
        /// The image.
        image: ImageId,
        /// The version.
        version: Version,
    },
    /// It was written by a newer mvps. Upgrade; nothing else helps.
    #[error("{key}: {reason}")]
    NewerFormat {
        /// Where.
        key: String,
        /// Which format it is.
        reason: FormatError,
    },
    /// It is damaged, or something that is no manifest lies among the manifests.
    #[error("{key} cannot be read as a manifest: {reason}")]
    Corrupt {
        /// Where.
        key: String,
        /// What is wrong.
        reason: FormatError,
    },
}

impl ManifestError {
    fn format(key: String, reason: FormatError) -> Self {
        match reason {
            FormatError::NewerFormat { .. } => Self::NewerFormat { key, reason },
            FormatError::Corrupt { .. } => Self::Corrupt { key, reason },
        }
    }
}

/// The manifests of all images of one object store.
#[derive(Clone)]
pub struct ManifestStore {
    objects: RetryingStore,
}

impl ManifestStore {
    /// The manifests in `objects`.
    #[must_use]
    pub fn new(objects: RetryingStore) -> Self {
        Self { objects }
    }

    /// The same manifests for a caller that waits differently.
    #[must_use]
    pub fn with_patience(&self, patience: Patience) -> Self {
        Self {
            objects: self.objects.with_patience(patience),
        }
    }

    /// The version of the newest manifest of `image`: one LIST. `None` if there is none.
    ///
    /// # Errors
    /// [`ManifestError::Store`], or [`ManifestError::Corrupt`] if something else lies there.
    pub async fn newest_version(&self, image: &ImageId) -> Result<Option<Version>, ManifestError> {
        let prefix = manifests_prefix(image);
        let entries = self.objects.list(&prefix, None, 1).await?;
        entries
            .first()
            .map(|entry| version_of(&entry.key))
            .transpose()
    }

    /// The newest manifest of `image`: one LIST and one GET. `None` if there is none.
    ///
    /// # Errors
    /// [`ManifestError`], never for an image that merely does not exist.
    pub async fn newest(&self, image: &ImageId) -> Result<Option<Manifest>, ManifestError> {
        let mut vanished = 0;
        loop {
            let Some(version) = self.newest_version(image).await? else {
                return Ok(None);
            };
            match self.load(image, version).await {
                // Somebody published a newer one, and the collector deleted this one.
                Err(ManifestError::NoSuchVersion { .. }) if vanished < VANISHED_MAX => {
                    vanished += 1;
                }
                other => return other.map(Some),
            }
        }
    }

    /// One version of `image`. One that does not decode is read some more times: it may have been
    /// damaged on the way, and a server that cannot read the newest manifest gives up its tenure.
    ///
    /// # Errors
    /// [`ManifestError`]; [`ManifestError::NoSuchVersion`] if it does not exist.
    pub async fn load(&self, image: &ImageId, version: Version) -> Result<Manifest, ManifestError> {
        let mut reads = 1;
        loop {
            match self.load_once(image, version).await {
                Err(
                    error @ (ManifestError::Corrupt { .. } | ManifestError::NewerFormat { .. }),
                ) if reads < READS_MAX => {
                    tracing::warn!(%error, "reading a manifest again");
                    reads += 1;
                }
                other => return other,
            }
        }
    }

    async fn load_once(
        &self,
        image: &ImageId,
        version: Version,
    ) -> Result<Manifest, ManifestError> {
        let key = manifest_key(image, version);
        match self.objects.get(&key, GetRange::Whole).await {
            Ok(body) => Manifest::decode(image, version, &body.joined())
                .map_err(|reason| ManifestError::format(key, reason)),
            Err(StoreError::NotFound { .. }) => Err(ManifestError::NoSuchVersion {
                image: image.clone(),
                version,
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// All versions of `image` that have a manifest, newest first.
    ///
    /// # Errors
    /// [`ManifestError::Store`], or [`ManifestError::Corrupt`] if something else lies there.
    pub async fn list_versions(&self, image: &ImageId) -> Result<Vec<Version>, ManifestError> {
        let prefix = manifests_prefix(image);
        let mut versions = Vec::new();
        let mut last: Option<String> = None;
        loop {
            let page = self
                .objects
                .list(&prefix, last.as_deref(), LIST_PAGE)
                .await?;
            for entry in &page {
                versions.push(version_of(&entry.key)?);
            }
            if page.len() < LIST_PAGE {
                return Ok(versions);
            }
            last = page.last().map(|entry| entry.key.clone());
        }
    }

    /// The manifest of an earlier state of `image` that is retained: one that nobody has published
    /// the end of, so that all its objects are still there (protocol §4.2). `None` if it is not.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub async fn retained(
        &self,
        image: &ImageId,
        since: &Since,
    ) -> Result<Option<Manifest>, ManifestError> {
        let Some(newest) = self.newest(image).await? else {
            return Ok(None);
        };
        let Some(version) = retained_version(&newest, since) else {
            return Ok(None);
        };
        if version == newest.version {
            return Ok(Some(newest));
        }
        match self.load(image, version).await {
            // Another life of the name is no earlier state of this one.
            Ok(manifest) => Ok(Some(manifest).filter(|one| one.incarnation == newest.incarnation)),
            Err(ManifestError::NoSuchVersion { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What [`Self::retained`] may be asked for: all snapshots, and `versions_max` of the newest
    /// versions; empty if there is no such image.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub async fn list_retained(
        &self,
        image: &ImageId,
        versions_max: usize,
    ) -> Result<Vec<Since>, ManifestError> {
        let Some(newest) = self.newest(image).await? else {
            return Ok(Vec::new());
        };
        let prefix = manifests_prefix(image);
        let entries = self.objects.list(&prefix, None, versions_max).await?;
        let names = newest.snapshots.iter().map(|one| one.name.clone());
        let mut found: Vec<Since> = names.map(Since::Snapshot).collect();
        for entry in &entries {
            let since = Since::Version(version_of(&entry.key)?);
            if retained_version(&newest, &since).is_some() {
                found.push(since);
            }
        }
        Ok(found)
    }

    /// The names that have, or had, an image. Folders that are no image's are left out.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_images(&self) -> Result<Vec<ImageId>, StoreError> {
        let prefix = images_prefix();
        let folders = self.objects.list_folders(prefix).await?;
        let images = folders
            .iter()
            .filter_map(|folder| parse_image_folder(&format!("{prefix}{folder}")).ok());
        Ok(images.collect())
    }

    /// Creates `manifest` under its version's name. Only `publish` calls it: what it answers is
    /// not evidence that the publication counted.
    pub(super) async fn create(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let key = manifest_key(&manifest.image, manifest.version);
        self.objects.create(&key, manifest.encode()).await
    }
}

/// The version that `since` means, if the newest manifest keeps it.
fn retained_version(newest: &Manifest, since: &Since) -> Option<Version> {
    let snapshots = &newest.snapshots;
    match since {
        Since::Snapshot(name) => snapshots
            .iter()
            .find(|one| one.name == *name)
            .map(|one| one.version),
        Since::Version(version) => {
            let named = snapshots.iter().any(|one| one.version == *version);
            let kept = newest.oldest_retained <= *version && *version <= newest.version;
            (kept || named).then_some(*version)
        }
    }
}

fn version_of(key: &str) -> Result<Version, ManifestError> {
    parse_manifest_key(key)
        .map(|(_, version)| version)
        .map_err(|reason| ManifestError::format(key.to_owned(), reason))
}
