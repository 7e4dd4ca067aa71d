//! Counts what is asked of the object store, for `mvps status` and for the patience of a shutdown.
//!
//! Sits directly on the adapter, below the core's retries, so that every request that leaves the
//! process is one count. Changes nothing.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use mvps_core::env::{ObjectEntry, ObjectStore, PartTag, StoreError, UploadEntry, UploadId};

use crate::control::{ObjectStoreReport, OperationReport};

/// Names of the operations, in the order of [`Operation`].
const OPERATIONS: [&str; 11] = [
    "put",
    "create",
    "start_upload",
    "upload_part",
    "complete_upload",
    "abort_upload",
    "list_uploads",
    "get",
    "get_range",
    "list",
    "delete",
];

#[derive(Clone, Copy)]
enum Operation {
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
    Delete,
}

/// Running totals.
#[derive(Debug, Default)]
pub struct ObjectStoreCounters {
    requests: [AtomicU64; OPERATIONS.len()],
    failures: [AtomicU64; OPERATIONS.len()],
    unavailable: AtomicU64,
    answered: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

impl ObjectStoreCounters {
    /// Requests that the store answered, in whatever way. Rises only while the store is there.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// For the control socket.
    #[must_use]
    pub fn report(&self) -> ObjectStoreReport {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let operations = OPERATIONS.iter().zip(&self.requests).zip(&self.failures);
        ObjectStoreReport {
            requests: self.requests.iter().map(count).sum(),
            unavailable: count(&self.unavailable),
            sent_bytes: count(&self.sent_bytes),
            received_bytes: count(&self.received_bytes),
            operations: operations
                .map(|((name, requests), failures)| OperationReport {
                    operation: (*name).to_owned(),
                    requests: count(requests),
                    failures: count(failures),
                })
                .collect(),
        }
    }

    fn begin(&self, operation: Operation) -> Request<'_> {
        self.requests[operation as usize].fetch_add(1, Ordering::Relaxed);
        Request {
            counters: self,
            operation,
            answered: false,
            failed: true,
        }
    }

    async fn count<T>(
        &self,
        operation: Operation,
        body_bytes: usize,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let request = self.begin(operation);
        let result = call.await;
        request.end(&result);
        if result.is_ok() {
            self.sent_bytes
                .fetch_add(body_bytes as u64, Ordering::Relaxed);
        }
        result
    }

    fn received(&self, result: Result<Bytes, StoreError>) -> Result<Bytes, StoreError> {
        if let Ok(body) = &result {
            self.received_bytes
                .fetch_add(body.len() as u64, Ordering::Relaxed);
        }
        result
    }
}

/// One request under way. One that is dropped before it ended ran out of its time.
struct Request<'a> {
    counters: &'a ObjectStoreCounters,
    operation: Operation,
    answered: bool,
    failed: bool,
}

impl Request<'_> {
    fn end<T>(mut self, result: &Result<T, StoreError>) {
        self.failed = result.is_err();
        self.answered = !matches!(result, Err(StoreError::Unavailable { .. }));
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if self.failed {
            self.counters.failures[self.operation as usize].fetch_add(1, Ordering::Relaxed);
        }
        let outcome = if self.answered {
            &self.counters.answered
        } else {
            &self.counters.unavailable
        };
        outcome.fetch_add(1, Ordering::Relaxed);
    }
}

/// An object store whose requests are counted.
pub struct CountedStore {
    store: Arc<dyn ObjectStore>,
    counters: Arc<ObjectStoreCounters>,
}

impl CountedStore {
    /// Counts the requests to `store`.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, counters: Arc<ObjectStoreCounters>) -> Self {
        Self { store, counters }
    }
}

#[async_trait]
impl ObjectStore for CountedStore {
    async fn put(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let bytes = body.len();
        self.counters
            .count(Operation::Put, bytes, self.store.put(key, body))
            .await
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let bytes = body.len();
        self.counters
            .count(Operation::Create, bytes, self.store.create(key, body))
            .await
    }

    async fn start_upload(&self, key: &str) -> Result<UploadId, StoreError> {
        self.counters
            .count(Operation::StartUpload, 0, self.store.start_upload(key))
            .await
    }

    async fn upload_part(
        &self,
        key: &str,
        upload: &UploadId,
        number: u32,
        body: Bytes,
    ) -> Result<PartTag, StoreError> {
        let bytes = body.len();
        let call = self.store.upload_part(key, upload, number, body);
        self.counters
            .count(Operation::UploadPart, bytes, call)
            .await
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &UploadId,
        parts: &[PartTag],
    ) -> Result<(), StoreError> {
        let call = self.store.complete_upload(key, upload, parts);
        self.counters
            .count(Operation::CompleteUpload, 0, call)
            .await
    }

    async fn abort_upload(&self, key: &str, upload: &UploadId) -> Result<(), StoreError> {
        let call = self.store.abort_upload(key, upload);
        self.counters.count(Operation::AbortUpload, 0, call).await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UploadEntry>, StoreError> {
        self.counters
            .count(Operation::ListUploads, 0, self.store.list_uploads(prefix))
            .await
    }

    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        let result = self
            .counters
            .count(Operation::Get, 0, self.store.get(key))
            .await;
        self.counters.received(result)
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let call = self.store.get_range(key, range);
        let result = self.counters.count(Operation::GetRange, 0, call).await;
        self.counters.received(result)
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectEntry>, StoreError> {
        let call = self.store.list(prefix, start_after, limit);
        self.counters.count(Operation::List, 0, call).await
    }

    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.counters
            .count(Operation::List, 0, self.store.list_folders(prefix))
            .await
    }

    async fn delete(&self, keys: &[String]) -> Vec<Result<(), StoreError>> {
        let request = self.counters.begin(Operation::Delete);
        let results = self.store.delete(keys).await;
        let worst = results
            .iter()
            .find(|result| result.is_err())
            .cloned()
            .unwrap_or(Ok(()));
        request.end(&worst);
        results
    }
}

#[cfg(test)]
mod tests {
    use mvps_core::env::memory::MemoryObjectStore;

    use super::*;

    #[tokio::test]
    async fn every_request_is_counted_once() {
        let counters = Arc::new(ObjectStoreCounters::default());
        let memory = Arc::new(MemoryObjectStore::new());
        let store = CountedStore::new(memory, Arc::clone(&counters));
        store
            .put("a", Bytes::from_static(b"four"))
            .await
            .expect("put");
        store.get("a").await.expect("get");
        store.get("b").await.expect_err("there is no such object");

        let report = counters.report();
        let of = |name: &str| {
            let found = report.operations.iter().find(|row| row.operation == name);
            found.map(|row| (row.requests, row.failures)).expect(name)
        };
        assert_eq!(of("put"), (1, 0));
        assert_eq!(of("get"), (2, 1));
        assert_eq!((report.sent_bytes, report.unavailable), (4, 0));
        assert_eq!(report.requests, counters.answered());
    }

    #[test]
    fn a_request_that_is_given_up_counts_as_unavailable() {
        let counters = ObjectStoreCounters::default();
        drop(counters.begin(Operation::Put));
        let report = counters.report();
        assert_eq!(
            (report.requests, report.unavailable, counters.answered()),
            (1, 1, 0)
        );
    }
}
