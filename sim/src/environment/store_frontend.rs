//! An object store made of one function from request to reply: every method of the trait becomes a
//! [`Request`], and a handler answers it.

use async_trait::async_trait;
use bytes::Bytes;
use mvps_core::env::{
    GetRange, ObjectBody, ObjectEntry, ObjectStore, PartTag, StoreError, UploadEntry, UploadId,
};

use super::request::{Answer, Request};

/// What a request comes back with.
pub type Reply = Result<Answer, StoreError>;

/// Carries out requests in its own way.
#[async_trait]
pub trait RequestHandler: Send + Sync + 'static {
    /// Carries out `request`, and returns the answer that belongs to it.
    async fn handle(&self, request: Request) -> Reply;
}

/// The object store whose requests a handler carries out.
pub struct StoreFrontend<A>(pub A);

macro_rules! answer {
    ($reply:expr, $variant:ident) => {
        match $reply.await? {
            Answer::$variant(value) => Ok(value),
            other => unreachable!("another request's answer: {other:?}"),
        }
    };
}

#[async_trait]
impl<A: RequestHandler> ObjectStore for StoreFrontend<A> {
    async fn put(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let request = Request::Put(key.to_owned(), body);
        self.0.handle(request).await.map(drop)
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let request = Request::Create(key.to_owned(), body);
        self.0.handle(request).await.map(drop)
    }

    async fn start_upload(&self, key: &str) -> Result<UploadId, StoreError> {
        answer!(self.0.handle(Request::StartUpload(key.to_owned())), Upload)
    }

    async fn upload_part(
        &self,
        key: &str,
        upload: &UploadId,
        number: u32,
        body: Bytes,
    ) -> Result<PartTag, StoreError> {
        let request = Request::UploadPart(key.to_owned(), upload.clone(), number, body);
        answer!(self.0.handle(request), Part)
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &UploadId,
        parts: &[PartTag],
    ) -> Result<(), StoreError> {
        let request = Request::CompleteUpload(key.to_owned(), upload.clone(), parts.to_vec());
        self.0.handle(request).await.map(drop)
    }

    async fn abort_upload(&self, key: &str, upload: &UploadId) -> Result<(), StoreError> {
        let request = Request::AbortUpload(key.to_owned(), upload.clone());
        self.0.handle(request).await.map(drop)
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UploadEntry>, StoreError> {
        answer!(
            self.0.handle(Request::ListUploads(prefix.to_owned())),
            Uploads
        )
    }

    async fn get(&self, key: &str, range: GetRange) -> Result<ObjectBody, StoreError> {
        let body: Result<Bytes, _> =
            answer!(self.0.handle(Request::Get(key.to_owned(), range)), Body);
        body.map(ObjectBody::from)
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectEntry>, StoreError> {
        let after = start_after.map(str::to_owned);
        let request = Request::List(prefix.to_owned(), after, limit);
        answer!(self.0.handle(request), Entries)
    }

    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        answer!(
            self.0.handle(Request::ListFolders(prefix.to_owned())),
            Folders
        )
    }

    async fn delete(&self, keys: &[String]) -> Vec<Result<(), StoreError>> {
        match self.0.handle(Request::Delete(keys.to_vec())).await {
            Ok(Answer::Deleted(results)) => results,
            Ok(other) => unreachable!("another request's answer: {other:?}"),
            Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}
