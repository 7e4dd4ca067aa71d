//! The object store's requests as values, so that one can be carried out later, or twice.

use bytes::Bytes;
use mvps_core::env::{
    GetRange, ObjectEntry, ObjectStore, OperationKind, PartTag, StoreError, UploadEntry, UploadId,
};

/// One call of an object store.
#[derive(Debug, Clone)]
#[expect(
    missing_docs,
    reason = "each is the method of its name and its arguments"
)]
pub enum Request {
    Put(String, Bytes),
    Create(String, Bytes),
    StartUpload(String),
    UploadPart(String, UploadId, u32, Bytes),
    CompleteUpload(String, UploadId, Vec<PartTag>),
    AbortUpload(String, UploadId),
    ListUploads(String),
    Get(String, GetRange),
    List(String, Option<String>, usize),
    ListFolders(String),
    Delete(Vec<String>),
}

/// What a call returned.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "what the methods return")]
pub enum Answer {
    Done,
    Upload(UploadId),
    Part(PartTag),
    Uploads(Vec<UploadEntry>),
    Body(Bytes),
    Entries(Vec<ObjectEntry>),
    Folders(Vec<String>),
    Deleted(Vec<Result<(), StoreError>>),
}

impl Request {
    /// The method that it is.
    #[must_use]
    pub fn kind(&self) -> OperationKind {
        match self {
            Self::Put(..) => OperationKind::Put,
            Self::Create(..) => OperationKind::Create,
            Self::StartUpload(..) => OperationKind::StartUpload,
            Self::UploadPart(..) => OperationKind::UploadPart,
            Self::CompleteUpload(..) => OperationKind::CompleteUpload,
            Self::AbortUpload(..) => OperationKind::AbortUpload,
            Self::ListUploads(..) => OperationKind::ListUploads,
            Self::Get(_, range) => OperationKind::of_get(range),
            Self::List(..) => OperationKind::List,
            Self::ListFolders(..) => OperationKind::ListFolders,
            Self::Delete(..) => OperationKind::Delete,
        }
    }

    /// The key or prefix.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(key, _)
            | Self::Create(key, _)
            | Self::StartUpload(key)
            | Self::UploadPart(key, ..)
            | Self::CompleteUpload(key, ..)
            | Self::AbortUpload(key, _)
            | Self::ListUploads(key)
            | Self::Get(key, _)
            | Self::List(key, ..)
            | Self::ListFolders(key) => key,
            Self::Delete(keys) => keys.first().map_or("", String::as_str),
        }
    }

    /// Bytes that go to the store.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        match self {
            Self::Put(_, body) | Self::Create(_, body) | Self::UploadPart(.., body) => body.len(),
            _ => 0,
        }
    }

    /// Whether it changes something.
    #[must_use]
    pub fn mutates(&self) -> bool {
        !matches!(
            self,
            Self::ListUploads(_) | Self::Get(..) | Self::List(..) | Self::ListFolders(_)
        )
    }

    /// Carries it out, at once.
    ///
    /// # Errors
    /// As the store's.
    pub async fn carry_out(self, store: &dyn ObjectStore) -> Result<Answer, StoreError> {
        let done = |()| Answer::Done;
        match self {
            Self::Put(key, body) => store.put(&key, body).await.map(done),
            Self::Create(key, body) => store.create(&key, body).await.map(done),
            Self::StartUpload(key) => store.start_upload(&key).await.map(Answer::Upload),
            Self::UploadPart(key, upload, number, body) => {
                let part = store.upload_part(&key, &upload, number, body).await;
                part.map(Answer::Part)
            }
            Self::CompleteUpload(key, upload, parts) => {
                store.complete_upload(&key, &upload, &parts).await.map(done)
            }
            Self::AbortUpload(key, upload) => store.abort_upload(&key, &upload).await.map(done),
            Self::ListUploads(prefix) => store.list_uploads(&prefix).await.map(Answer::Uploads),
            Self::Get(key, range) => {
                let body = store.get(&key, range).await;
                body.map(|body| Answer::Body(body.joined()))
            }
            Self::List(prefix, after, limit) => {
                let entries = store.list(&prefix, after.as_deref(), limit).await;
                entries.map(Answer::Entries)
            }
            Self::ListFolders(prefix) => store.list_folders(&prefix).await.map(Answer::Folders),
            Self::Delete(keys) => Ok(Answer::Deleted(store.delete(&keys).await)),
        }
    }
}
