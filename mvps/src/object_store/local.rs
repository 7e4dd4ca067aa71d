//! A folder as an object store: the embedded default.
//!
//! Objects are files of the `object_store` crate, which stages, syncs, renames or links them and
//! syncs their directories, so that a success survives a power cut. What the crate lacks is here:
//! uploads that survive a restart, listings by any prefix and in order, and errors by what the
//! caller does next.
//!
//! An upload is a folder below `.uploads`: the file `key`, and the parts (see [`upload`]). They are
//! not synced; the object is, when it is complete. The file `key` goes first when an upload ends,
//! so that a part that is missing under it was really never uploaded.

mod at_once;
mod upload;

use std::io;
use std::ops::Range;
use std::path::Path as FilePath;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use mvps_core::env::{
    GetRange, ObjectBody, ObjectEntry, ObjectStore, PartTag, StoreError, UploadEntry, UploadId,
};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode, PutPayload};

use crate::files::sync_folder;
use at_once::ReadsAtOnce;
use upload::UploadFolder;

/// Holds uploads; no key begins with it.
const UPLOADS: &str = ".uploads";

/// An object store in a local folder. Any number of processes of one machine may share it.
pub struct LocalObjectStore {
    objects: LocalFileSystem,
    uploads: LocalFileSystem,
    at_once: ReadsAtOnce,
    /// Makes the name of a key durable that another request may just have made.
    root: std::path::PathBuf,
}

impl LocalObjectStore {
    /// Opens `folder`, making it if it is missing.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(folder: &FilePath) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let root = folder.canonicalize()?;
        if let Some(parent) = root.parent() {
            // The folder may be new; its own name has to survive too.
            sync_folder(parent)?;
        }
        let files = LocalFileSystem::new_with_prefix(&root).map_err(io::Error::other)?;
        let files = files.with_automatic_cleanup(true);
        Ok(Self {
            objects: files.clone().with_fsync(true),
            uploads: files,
            at_once: ReadsAtOnce::below(&root)?,
            root,
        })
    }

    async fn uploaded_key(&self, upload: &UploadId) -> Result<Bytes, StoreError> {
        let marker = marker(upload)?;
        let found = self
            .uploads
            .get(&marker)
            .await
            .map_err(|error| translate("", error))?;
        found.bytes().await.map_err(|error| translate("", error))
    }

    async fn check_upload(&self, key: &str, upload: &UploadId) -> Result<(), StoreError> {
        match self.uploaded_key(upload).await {
            Ok(stored) if stored == key.as_bytes() => Ok(()),
            Ok(_) | Err(StoreError::NotFound { .. } | StoreError::Invalid { .. }) => {
                Err(StoreError::NotFound {
                    key: key.to_owned(),
                })
            }
            Err(error) => Err(error),
        }
    }

    fn upload_folder(&self, upload: &UploadId) -> UploadFolder {
        let path = self.root.join(UPLOADS).join(&upload.0);
        UploadFolder { path }
    }

    async fn assemble(
        &self,
        key: &str,
        upload: &UploadId,
        parts: &[PartTag],
    ) -> Result<(), StoreError> {
        let object = self.root.join(path(key)?.as_ref());
        let (folder, parts) = (self.upload_folder(upload), parts.to_vec());
        run_aside(key, move || folder.complete(&parts, &object)).await
    }

    async fn forget(&self, upload: &UploadId) -> Result<(), StoreError> {
        let marker = marker(upload)?;
        self.remove_upload_file(&marker).await?;
        let folder = Path::from(format!("{UPLOADS}/{}", upload.0));
        let parts: Vec<_> = self.uploads.list(Some(&folder)).collect().await;
        for part in parts {
            let part = part.map_err(|error| translate("", error))?;
            self.remove_upload_file(&part.location).await?;
        }
        Ok(())
    }

    async fn remove_upload_file(&self, file: &Path) -> Result<(), StoreError> {
        match self
            .uploads
            .delete(file)
            .await
            .map_err(|error| translate("", error))
        {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// All objects under `prefix`, in no order.
    async fn walk(&self, prefix: &str) -> Result<Vec<ObjectEntry>, StoreError> {
        let folder = prefix.rfind('/').map(|slash| Path::from(&prefix[..slash]));
        let found = self
            .objects
            .list(folder.as_ref())
            .map_err(|error| translate(prefix, error));
        let hidden = format!("{UPLOADS}/");
        let entries = found.try_filter_map(|meta| {
            let entry = ObjectEntry {
                key: meta.location.to_string(),
                size: meta.size,
            };
            let wanted = entry.key.starts_with(prefix) && !entry.key.starts_with(&hidden);
            std::future::ready(Ok(wanted.then_some(entry)))
        });
        entries.try_collect().await
    }

    async fn read_whole(&self, key: &str) -> Result<Bytes, StoreError> {
        let found = self
            .objects
            .get(&path(key)?)
            .await
            .map_err(|error| translate(key, error))?;
        found.bytes().await.map_err(|error| translate(key, error))
    }

    async fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let path = path(key)?;
        if let Some(read) = self.at_once.read(path.as_ref(), &range) {
            return Ok(read);
        }
        let wanted = range.end.saturating_sub(range.start);
        let found = self.objects.get_range(&path, range.clone()).await;
        let read = found.map_err(|error| translate(key, error));
        if read.as_ref().is_ok_and(|body| body.len() as u64 == wanted) {
            return read;
        }
        // Short, or refused: that may be the range's fault.
        let meta = self
            .objects
            .head(&path)
            .await
            .map_err(|error| translate(key, error))?;
        if range.end > meta.size {
            let reason = format!("bytes {range:?} of an object of {} bytes", meta.size);
            return Err(StoreError::Corrupt {
                key: key.to_owned(),
                reason,
            });
        }
        let replaced = || StoreError::Unavailable {
            reason: format!("{key} was replaced"),
        };
        Err(read.err().unwrap_or_else(replaced))
    }
}

/// Runs what waits for the disk.
async fn run_aside<T: Send + 'static>(
    key: &str,
    job: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(job).await;
    let done = done.unwrap_or_else(|stopped| Err(io::Error::other(stopped)));
    done.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => invalid(&error.to_string()),
        kind => by_kind(key, Some(kind), error.to_string()),
    })
}

fn invalid(reason: &str) -> StoreError {
    StoreError::Invalid {
        reason: reason.to_owned(),
    }
}

/// Where a key's file is. A key that is no plain relative path is refused.
fn path(key: &str) -> Result<Path, StoreError> {
    if key == UPLOADS || key.starts_with(&format!("{UPLOADS}/")) {
        return Err(invalid(&format!(
            "keys below {UPLOADS} are the store's own: {key}"
        )));
    }
    let parsed = Path::parse(key).map_err(|error| invalid(&error.to_string()))?;
    if parsed.as_ref() == key {
        Ok(parsed)
    } else {
        Err(invalid(&format!("not a key: {key}")))
    }
}

fn marker(upload: &UploadId) -> Result<Path, StoreError> {
    let plain = !upload.0.is_empty() && upload.0.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !plain {
        return Err(invalid("not an upload of this store"));
    }
    Ok(Path::from(format!("{UPLOADS}/{}/key", upload.0)))
}

fn part(upload: &UploadId, number: u32) -> Path {
    let name = upload::part_name(number);
    Path::from(format!("{UPLOADS}/{}/{name}", upload.0))
}

/// The system's error behind the crate's, if there is one.
fn io_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<io::Error>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// By what the caller does next.
fn translate(key: &str, error: object_store::Error) -> StoreError {
    let key = key.to_owned();
    match &error {
        object_store::Error::NotFound { .. } => StoreError::NotFound { key },
        object_store::Error::AlreadyExists { .. } => StoreError::AlreadyExists { key },
        object_store::Error::InvalidPath { .. } => invalid(&error.to_string()),
        _ => {
            let kind = io_error(&error).map(io::Error::kind);
            by_kind(&key, kind, error.to_string())
        }
    }
}

/// A full disk, too many open files and the like pass: the caller waits, as it does for S3.
fn by_kind(key: &str, kind: Option<io::ErrorKind>, reason: String) -> StoreError {
    match kind {
        Some(
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory,
        ) => StoreError::NotFound {
            key: key.to_owned(),
        },
        Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            StoreError::Denied { reason }
        }
        _ => StoreError::Unavailable { reason },
    }
}

#[async_trait]
impl ObjectStore for LocalObjectStore {
    async fn put(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let put = self.objects.put(&path(key)?, PutPayload::from(body)).await;
        put.map(|_| ()).map_err(|error| translate(key, error))
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let payload = PutPayload::from(body);
        let created = self
            .objects
            .put_opts(&path(key)?, payload, PutMode::Create.into())
            .await;
        let created = created.map(|_| ()).map_err(|error| translate(key, error));
        if let Err(StoreError::AlreadyExists { .. }) = &created {
            // Whoever made it may not have synced its name yet, and may be this caller's own
            // earlier try. What is said to exist must exist after a power cut, too.
            let file = self.root.join(key);
            let synced = tokio::task::spawn_blocking(move || file.parent().map(sync_folder)).await;
            if let Ok(Some(Err(error))) = synced {
                return Err(StoreError::Unavailable {
                    reason: error.to_string(),
                });
            }
        }
        created
    }

    async fn start_upload(&self, key: &str) -> Result<UploadId, StoreError> {
        path(key)?;
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| StoreError::Unavailable {
            reason: error.to_string(),
        })?;
        let upload = UploadId(format!("{:032x}", u128::from_le_bytes(id)));
        let body = PutPayload::from(key.to_owned().into_bytes());
        let put = self.uploads.put(&marker(&upload)?, body).await;
        put.map(|_| upload).map_err(|error| translate(key, error))
    }

    async fn upload_part(
        &self,
        key: &str,
        upload: &UploadId,
        number: u32,
        body: Bytes,
    ) -> Result<PartTag, StoreError> {
        self.check_upload(key, upload).await?;
        let (folder, bytes) = (self.upload_folder(upload), body.clone());
        let write = move || Ok((upload::tag(&bytes), folder.write_part(number, &bytes)?));
        let (tag, is_placed) = run_aside(key, write).await?;
        if is_placed {
            return Ok(tag);
        }
        let file = part(upload, number);
        let put = self.uploads.put(&file, PutPayload::from(body)).await;
        put.map(|_| tag).map_err(|error| translate(key, error))
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &UploadId,
        parts: &[PartTag],
    ) -> Result<(), StoreError> {
        self.check_upload(key, upload).await?;
        match self.assemble(key, upload, parts).await {
            Ok(()) => self.forget(upload).await,
            Err(error) => {
                // Somebody else may have completed it meanwhile: then that is the answer.
                self.check_upload(key, upload).await?;
                Err(error)
            }
        }
    }

    async fn abort_upload(&self, key: &str, upload: &UploadId) -> Result<(), StoreError> {
        match self.check_upload(key, upload).await {
            Ok(()) => self.forget(upload).await,
            Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UploadEntry>, StoreError> {
        let folders = self
            .uploads
            .list_with_delimiter(Some(&Path::from(UPLOADS)))
            .await;
        let folders = folders.map_err(|error| translate(UPLOADS, error))?;
        let mut uploads = Vec::new();
        for folder in folders.common_prefixes {
            let Some(id) = folder.filename() else {
                continue;
            };
            let upload = UploadId(id.to_owned());
            let key = match self.uploaded_key(&upload).await {
                Ok(key) => String::from_utf8_lossy(&key).into_owned(),
                // It ended meanwhile, or is none of ours.
                Err(StoreError::NotFound { .. } | StoreError::Invalid { .. }) => continue,
                Err(error) => return Err(error),
            };
            if key.starts_with(prefix) {
                uploads.push(UploadEntry { key, upload });
            }
        }
        uploads.sort_by(|left, right| left.key.cmp(&right.key));
        Ok(uploads)
    }

    async fn get(&self, key: &str, range: GetRange) -> Result<ObjectBody, StoreError> {
        let read = match range {
            GetRange::Whole => self.read_whole(key).await,
            GetRange::Bytes(range) => self.read_range(key, range).await,
        };
        read.map(ObjectBody::alone)
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectEntry>, StoreError> {
        let mut entries = self.walk(prefix).await?;
        entries.retain(|entry| start_after.is_none_or(|after| entry.key.as_str() > after));
        entries.sort_by(|left, right| left.key.cmp(&right.key));
        entries.truncate(limit);
        Ok(entries)
    }

    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let folder = prefix.strip_suffix('/').map(Path::from);
        let listed = self.objects.list_with_delimiter(folder.as_ref()).await;
        let mut folders = Vec::new();
        for found in listed
            .map_err(|error| translate(prefix, error))?
            .common_prefixes
        {
            let Some(name) = found.filename().filter(|name| *name != UPLOADS) else {
                continue;
            };
            // A crash may leave a directory with nothing but staging files.
            if let Some(object) = self.objects.list(Some(&found)).next().await {
                object.map_err(|error| translate(prefix, error))?;
                folders.push(format!("{name}/"));
            }
        }
        folders.sort();
        Ok(folders)
    }

    async fn delete(&self, keys: &[String]) -> Vec<Result<(), StoreError>> {
        let mut results = Vec::with_capacity(keys.len());
        for key in keys {
            let result = match path(key) {
                Ok(path) => self
                    .objects
                    .delete(&path)
                    .await
                    .map_err(|e| translate(key, e)),
                Err(error) => Err(error),
            };
            results.push(match result {
                Err(StoreError::NotFound { .. }) => Ok(()),
                result => result,
            });
        }
        results
    }
}

#[cfg(test)]
mod tests;
