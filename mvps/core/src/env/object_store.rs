//! Object storage: the only long-term home of an image.

use async_trait::async_trait;
use bytes::Bytes;

use super::{GetRange, ObjectBody};

/// What went wrong, by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no such object (or no such upload).
    #[error("object not found: {key}")]
    NotFound {
        /// The key that was asked for.
        key: String,
    },
    /// A conditional create found the name taken (S3: 412 Precondition Failed).
    #[error("object exists already: {key}")]
    AlreadyExists {
        /// The key that was to be created.
        key: String,
    },
    /// The store did not answer, answered with a server error, or a concurrent conditional request was in the way (S3: 409). The operation **may or may not**
    /// have been applied, and may still be applied later. Retry.
    #[error("object store unavailable: {reason}")]
    Unavailable {
        /// What the store or the connection said.
        reason: String,
    },
    /// The store asks everybody to slow down (S3: 503 SlowDown, 429). As [`Self::Unavailable`],
    /// and every other request should wait too. The retry wrapper handles it; callers of the
    /// wrapper see [`Self::Unavailable`].
    #[error("object store asks to slow down: {reason}")]
    SlowDown {
        /// What the store said.
        reason: String,
    },
    /// What came back is not what was asked for (a short body, a wrong length).
    #[error("object store returned a corrupt answer for {key}: {reason}")]
    Corrupt {
        /// The key that was asked for.
        key: String,
        /// What was wrong with the answer.
        reason: String,
    },
    /// The credentials do not allow it. Retrying does not help until somebody changes them.
    #[error("object store denied access: {reason}")]
    Denied {
        /// What the store said.
        reason: String,
    },
    /// The request itself is wrong (no such bucket, an invalid argument).
    #[error("object store refused the request: {reason}")]
    Invalid {
        /// What the store said.
        reason: String,
    },
}

/// One row of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectEntry {
    /// The whole key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
}

/// The store's name for a multipart upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadId(pub String);

/// What the store returned for one uploaded part (S3: its ETag), needed to complete the upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartTag(pub String);

/// One multipart upload that was started and neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadEntry {
    /// The key it would create.
    pub key: String,
    /// Its id.
    pub upload: UploadId,
}

/// Names the methods of [`ObjectStore`], for counters and scripts. A get of a range has a name of
/// its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the request of its name")]
pub enum OperationKind {
    Put,
    Create,
    StartUpload,
    UploadPart,
    CompleteUpload,
    AbortUpload,
    ListUploads,
    Get,
    GetRange,
    List,
    ListFolders,
    Delete,
}

impl OperationKind {
    /// Every kind, in order.
    pub const ALL: [Self; 12] = [
        Self::Put,
        Self::Create,
        Self::StartUpload,
        Self::UploadPart,
        Self::CompleteUpload,
        Self::AbortUpload,
        Self::ListUploads,
        Self::Get,
        Self::GetRange,
        Self::List,
        Self::ListFolders,
        Self::Delete,
    ];

    /// A get's kind.
    #[must_use]
    pub fn of_get(range: &GetRange) -> Self {
        match range {
            GetRange::Whole => Self::Get,
            GetRange::Bytes(_) => Self::GetRange,
        }
    }

    /// The request's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Create => "create",
            Self::StartUpload => "start_upload",
            Self::UploadPart => "upload_part",
            Self::CompleteUpload => "complete_upload",
            Self::AbortUpload => "abort_upload",
            Self::ListUploads => "list_uploads",
            Self::Get => "get",
            Self::GetRange => "get_range",
            Self::List => "list",
            Self::ListFolders => "list_folders",
            Self::Delete => "delete",
        }
    }
}

/// An object store with conditional create and strongly consistent listing. Keys are relative to
/// the store's configured prefix and are UTF-8 of `[A-Za-z0-9._/-]`.
///
/// A failed or cancelled call may have been applied, or be applied at any later time; the core's
/// retry wrapper and the protocol live with that. Implementations do **not** retry and do not
/// bound time.
#[async_trait]
pub trait ObjectStore: Send + Sync + 'static {
    /// Writes an object, replacing any of that name (S3: PutObject).
    async fn put(&self, key: &str, body: Bytes) -> Result<(), StoreError>;

    /// Writes an object only if there is none of that name (S3: PutObject, `If-None-Match: *`).
    /// Of several concurrent creates of one name exactly one succeeds.
    async fn create(&self, key: &str, body: Bytes) -> Result<(), StoreError>;

    /// Starts a multipart upload (S3: CreateMultipartUpload).
    async fn start_upload(&self, key: &str) -> Result<UploadId, StoreError>;

    /// Uploads part `number` (from 1). All parts but the last have equal sizes of at least 5 MiB.
    /// Uploading a number again replaces that part.
    async fn upload_part(
        &self,
        key: &str,
        upload: &UploadId,
        number: u32,
        body: Bytes,
    ) -> Result<PartTag, StoreError>;

    /// Makes the object of parts 1..=n, in order, replacing any of that name (S3:
    /// CompleteMultipartUpload). [`StoreError::NotFound`] if there is no such upload (any more),
    /// [`StoreError::Invalid`] if a part is missing, too small or has another tag.
    async fn complete_upload(
        &self,
        key: &str,
        upload: &UploadId,
        parts: &[PartTag],
    ) -> Result<(), StoreError>;

    /// Forgets an upload and its parts. An unknown upload is a success.
    async fn abort_upload(&self, key: &str, upload: &UploadId) -> Result<(), StoreError>;

    /// All uploads under `prefix` that are in progress (S3: ListMultipartUploads, all pages).
    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UploadEntry>, StoreError>;

    /// An object, or a range of its bytes. A range that reaches past the object's end is
    /// [`StoreError::Corrupt`], never a short answer. An empty range is a caller's bug.
    async fn get(&self, key: &str, range: GetRange) -> Result<ObjectBody, StoreError>;

    /// Up to `limit` objects whose keys begin with `prefix` and are greater than `start_after`, in
    /// ascending order of keys' bytes. Fewer than `limit` means that there are no more.
    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectEntry>, StoreError>;

    /// The distinct next path components (up to and including the next `/`) below `prefix`, which
    /// ends in `/` or is empty, in ascending order, without the prefix: `images/` gives `disk0/`
    /// (S3: ListObjectsV2 with a delimiter, all pages).
    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError>;

    /// Deletes objects; one result per key, in order. A missing object is a success.
    async fn delete(&self, keys: &[String]) -> Vec<Result<(), StoreError>>;
}
