//! Every request of the core: bounded in number and time, retried, and resolved when its reply was
//! lost.
//!
//! A try that failed with `Unavailable`, or that took too long, may have been applied or may still
//! be. So a retried create that finds the name taken compares bytes before it says so, and a
//! retried completion that finds no upload looks for the object. Puts, parts, reads, aborts and
//! deletions are the same the second time.
//!
//! Must never: start tasks, hold a request permit while it waits between tries, or turn "no
//! answer" into "not done".

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::Semaphore;

use super::retry_policy::{NextStep, Patience, next_step, try_timeout};
use super::statistics::{Counters, StoreStatistics};
use crate::env::{
    Clock, Entropy, EntropyExt, GetRange, Moment, ObjectBody, ObjectEntry, ObjectStore,
    OperationKind, PartTag, StoreError, UploadEntry, UploadId,
};

/// Requests in flight at once, of all images of a process: enough to fill a fast link with reads
/// of 64 KiB at 20 ms each, few enough for a store's and the system's connection limits.
pub const REQUESTS_MAX: usize = 64;

/// The default size of a part: few requests per GiB, and little enough to send again.
pub const PART_BYTES: usize = 8 * 1024 * 1024;

/// An object store that is tried until it answers. Cheap to clone; clones share limits, counters
/// and the store's wish for rest.
#[derive(Clone)]
pub struct RetryingStore {
    shared: Arc<Shared>,
    patience: Patience,
    part_bytes: usize,
}

struct Shared {
    objects: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    permits: Semaphore,
    counters: Counters,
    /// The store asked for rest until then.
    rest_until: Mutex<Moment>,
}

/// Every so many failed tries of one request are worth an operator's attention: the first time
/// after some seconds, then about once a minute.
const LOUD_AFTER: u32 = 8;

/// The tries of one request.
struct Tries<'a> {
    store: &'a RetryingStore,
    kind: OperationKind,
    began: Moment,
    failed: u32,
}

impl RetryingStore {
    /// Wraps `objects`; patience is [`Patience::Forever`].
    #[must_use]
    pub fn new(
        objects: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self::with_requests_max(objects, clock, entropy, REQUESTS_MAX)
    }

    /// The same with another limit than [`REQUESTS_MAX`], at least 1.
    #[must_use]
    pub fn with_requests_max(
        objects: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        requests_max: usize,
    ) -> Self {
        let shared = Shared {
            objects,
            clock,
            entropy,
            permits: Semaphore::new(requests_max.max(1)),
            counters: Counters::default(),
            rest_until: Mutex::new(Moment::default()),
        };
        Self {
            shared: Arc::new(shared),
            patience: Patience::Forever,
            part_bytes: PART_BYTES,
        }
    }

    /// The same store for a caller that waits differently.
    #[must_use]
    pub fn with_patience(&self, patience: Patience) -> Self {
        Self {
            patience,
            ..self.clone()
        }
    }

    /// The same store for a caller that uploads large objects in other parts than of
    /// [`PART_BYTES`]: the simulation, whose objects are small.
    #[must_use]
    pub fn with_part_bytes(&self, part_bytes: usize) -> Self {
        Self {
            part_bytes,
            ..self.clone()
        }
    }

    /// Bytes of the parts that a large object is uploaded in.
    #[must_use]
    pub fn part_bytes(&self) -> usize {
        self.part_bytes
    }

    /// What was asked of the store so far.
    #[must_use]
    pub fn statistics(&self) -> StoreStatistics {
        self.shared.counters.statistics()
    }

    /// Writes an object, replacing any of that name.
    ///
    /// # Errors
    /// As [`ObjectStore::put`]; `Unavailable` only when patience ends (of every method here).
    pub async fn put(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let length = body.len();
        let objects = &self.shared.objects;
        self.tries(OperationKind::Put)
            .until_done(length as u64, || objects.put(key, body.clone()))
            .await?;
        self.shared.counters.put(length);
        Ok(())
    }

    /// Writes an object only if there is none of that name. After an unclear try, a name that is
    /// taken by exactly `body` counts as created: bodies that must be told apart carry an id.
    ///
    /// # Errors
    /// `AlreadyExists` if another body has the name, or if the object that had it is gone again.
    /// `Unavailable`, when patience ends, leaves open whether it was created.
    pub async fn create(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let mut tries = self.tries(OperationKind::Create);
        let length = body.len();
        loop {
            let objects = &self.shared.objects;
            let result = tries
                .one(length as u64, objects.create(key, body.clone()))
                .await;
            match result {
                Ok(()) => break,
                Err(StoreError::AlreadyExists { .. })
                    if tries.failed > 0 && !crate::mutant::is("lost reply taken for failure") =>
                {
                    return self.resolve_create(key, &body).await;
                }
                Err(error) => tries.wait_after(error).await?,
            }
        }
        self.shared.counters.put(length);
        Ok(())
    }

    async fn resolve_create(&self, key: &str, body: &Bytes) -> Result<(), StoreError> {
        match self.get(key, GetRange::Whole).await.map(ObjectBody::joined) {
            Ok(found) if found == *body => {
                self.shared.counters.put(body.len());
                Ok(())
            }
            Ok(_) | Err(StoreError::NotFound { .. }) => Err(StoreError::AlreadyExists {
                key: key.to_owned(),
            }),
            Err(error) => Err(error),
        }
    }

    /// Starts a multipart upload. An unclear try may leave an empty one for the collector.
    ///
    /// # Errors
    /// As [`ObjectStore::start_upload`].
    pub async fn start_upload(&self, key: &str) -> Result<UploadId, StoreError> {
        let objects = &self.shared.objects;
        self.tries(OperationKind::StartUpload)
            .until_done(0, || objects.start_upload(key))
            .await
    }

    /// Uploads one part.
    ///
    /// # Errors
    /// As [`ObjectStore::upload_part`].
    pub async fn upload_part(
        &self,
        key: &str,
        upload: &UploadId,
        number: u32,
        body: Bytes,
    ) -> Result<PartTag, StoreError> {
        let length = body.len();
        let objects = &self.shared.objects;
        let tag = self
            .tries(OperationKind::UploadPart)
            .until_done(length as u64, || {
                objects.upload_part(key, upload, number, body.clone())
            })
            .await?;
        self.shared.counters.put(length);
        Ok(tag)
    }

    /// Makes the object of its parts, `size_bytes` together. After an unclear try, an upload that
    /// is gone counts as completed if the object is there with that size: the key must be one that
    /// is never written twice.
    ///
    /// # Errors
    /// As [`ObjectStore::complete_upload`].
    pub async fn complete_upload(
        &self,
        key: &str,
        upload: &UploadId,
        parts: &[PartTag],
        size_bytes: u64,
    ) -> Result<(), StoreError> {
        let mut tries = self.tries(OperationKind::CompleteUpload);
        loop {
            let objects = &self.shared.objects;
            match tries
                .one(0, objects.complete_upload(key, upload, parts))
                .await
            {
                Ok(()) => return Ok(()),
                Err(error @ StoreError::NotFound { .. }) if tries.failed > 0 => {
                    let found = self.list(key, None, 1).await?;
                    let expected = ObjectEntry {
                        key: key.to_owned(),
                        size: size_bytes,
                    };
                    return if found.first() == Some(&expected) {
                        Ok(())
                    } else {
                        Err(error)
                    };
                }
                Err(error) => tries.wait_after(error).await?,
            }
        }
    }

    /// Forgets an upload. For the collector only: a writer never aborts (protocol §3.7).
    ///
    /// # Errors
    /// As [`ObjectStore::abort_upload`].
    pub async fn abort_upload(&self, key: &str, upload: &UploadId) -> Result<(), StoreError> {
        let objects = &self.shared.objects;
        self.tries(OperationKind::AbortUpload)
            .until_done(0, || objects.abort_upload(key, upload))
            .await
    }

    /// All uploads in progress under `prefix`.
    ///
    /// # Errors
    /// As [`ObjectStore::list_uploads`].
    pub async fn list_uploads(&self, prefix: &str) -> Result<Vec<UploadEntry>, StoreError> {
        let objects = &self.shared.objects;
        self.tries(OperationKind::ListUploads)
            .until_done(0, || objects.list_uploads(prefix))
            .await
    }

    /// An object, or a range of its bytes; a range is never short.
    ///
    /// # Errors
    /// As [`ObjectStore::get`]; `Corrupt` after several tries.
    pub async fn get(&self, key: &str, range: GetRange) -> Result<ObjectBody, StoreError> {
        let expected = range.expected_bytes();
        let objects = &self.shared.objects;
        let body = self
            .tries(OperationKind::of_get(&range))
            .until_done(expected.unwrap_or(0), || {
                let answer = objects.get(key, range.clone());
                answer.map(|body| check_length(key, expected, body?))
            })
            .await?;
        self.shared.counters.got(body.len());
        Ok(body)
    }

    /// Up to `limit` objects under `prefix` after `start_after`, in order; fewer only at the end.
    ///
    /// # Errors
    /// As [`ObjectStore::list`].
    pub async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectEntry>, StoreError> {
        let objects = &self.shared.objects;
        self.tries(OperationKind::List)
            .until_done(0, || objects.list(prefix, start_after, limit))
            .await
    }

    /// The next path components below `prefix`.
    ///
    /// # Errors
    /// As [`ObjectStore::list_folders`].
    pub async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let objects = &self.shared.objects;
        self.tries(OperationKind::ListFolders)
            .until_done(0, || objects.list_folders(prefix))
            .await
    }

    /// Deletes objects; one result per key, in order. Only what failed is tried again.
    pub async fn delete(&self, keys: &[String]) -> Vec<Result<(), StoreError>> {
        let mut tries = self.tries(OperationKind::Delete);
        let mut results: Vec<Result<(), StoreError>> = vec![Ok(()); keys.len()];
        let mut open: Vec<usize> = (0..keys.len()).collect();
        while !open.is_empty() {
            let batch: Vec<String> = open.iter().map(|&index| keys[index].clone()).collect();
            let objects = &self.shared.objects;
            let attempt = tries
                .one(0, async { Ok(objects.delete(&batch).await) })
                .await;
            let outcomes = attempt.unwrap_or_else(|error| vec![Err(error); batch.len()]);
            for (&index, outcome) in open.iter().zip(outcomes) {
                results[index] = outcome.map_err(hide_slow_down);
            }
            open.retain(|&index| matches!(results[index], Err(StoreError::Unavailable { .. })));
            let Some(Err(error)) = open.first().map(|&index| results[index].clone()) else {
                break;
            };
            if tries.wait_after(error).await.is_err() {
                break;
            }
        }
        results
    }

    pub(super) fn entropy(&self) -> &dyn Entropy {
        &*self.shared.entropy
    }

    fn tries(&self, kind: OperationKind) -> Tries<'_> {
        Tries {
            store: self,
            kind,
            began: self.shared.clock.now(),
            failed: 0,
        }
    }
}

fn check_length(
    key: &str,
    expected: Option<u64>,
    body: ObjectBody,
) -> Result<ObjectBody, StoreError> {
    let Some(expected) = expected.filter(|expected| *expected != body.len() as u64) else {
        return Ok(body);
    };
    let reason = format!("{} bytes instead of {expected}", body.len());
    Err(StoreError::Corrupt {
        key: key.to_owned(),
        reason,
    })
}

fn hide_slow_down(error: StoreError) -> StoreError {
    match error {
        StoreError::SlowDown { reason } => StoreError::Unavailable { reason },
        error => error,
    }
}

impl Tries<'_> {
    async fn until_done<T, F: Future<Output = Result<T, StoreError>>>(
        mut self,
        bytes: u64,
        mut request: impl FnMut() -> F,
    ) -> Result<T, StoreError> {
        loop {
            match self.one(bytes, request()).await {
                Ok(value) => return Ok(value),
                Err(error) => self.wait_after(error).await?,
            }
        }
    }

    /// One try, in its time. Waiting for the store's rest and for a permit is part of the caller's
    /// patience but not of the try's time.
    async fn one<T>(
        &self,
        bytes: u64,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let shared = &*self.store.shared;
        let limit = try_timeout(self.kind, bytes);
        let attempt = async {
            self.rest().await;
            let permit = shared.permits.acquire().await;
            let _permit = permit.expect("the semaphore is never closed");
            let _in_flight = shared.counters.begin(self.kind);
            tokio::select! {
                biased;
                result = request => result,
                () = shared.clock.sleep(limit) => {
                    Err(self.no_answer(limit))
                }
            }
        };
        let Patience::For(patience) = self.store.patience else {
            return attempt.await;
        };
        let remaining = patience.saturating_sub(shared.clock.now().since(self.began));
        tokio::select! {
            biased;
            result = attempt => result,
            () = shared.clock.sleep(remaining) => Err(self.no_answer(patience)),
        }
    }

    fn no_answer(&self, limit: Duration) -> StoreError {
        let seconds = limit.as_secs_f64();
        let reason = format!("{} got no answer within {seconds} s", self.kind.name());
        StoreError::Unavailable { reason }
    }

    async fn rest(&self) {
        let shared = &self.store.shared;
        let until = *shared.rest_until.lock().expect("no holder panics");
        let wait = until.since(shared.clock.now());
        if !wait.is_zero() {
            shared.clock.sleep(wait).await;
        }
    }

    /// Waits before the next try, or gives the error back if there is none.
    async fn wait_after(&mut self, error: StoreError) -> Result<(), StoreError> {
        let shared = &self.store.shared;
        self.failed = self.failed.saturating_add(1);
        let now = shared.clock.now();
        let draw = shared.entropy.u64();
        let elapsed = now.since(self.began);
        let step = next_step(&error, self.store.patience, self.failed, elapsed, draw);
        let wait = match step {
            NextStep::GiveUp => return Err(hide_slow_down(error)),
            NextStep::Retry(wait) => wait,
            NextStep::RetrySlowly(wait) => {
                let mut rest_until = shared.rest_until.lock().expect("no holder panics");
                *rest_until = (*rest_until).max(now.after(wait));
                wait
            }
        };
        shared.counters.failed();
        let kind = self.kind.name();
        if self.failed.is_multiple_of(LOUD_AFTER) {
            tracing::warn!(kind, failed = self.failed, %error, "a request keeps failing");
        } else {
            tracing::debug!(kind, failed = self.failed, ?wait, %error, "retrying");
        }
        shared.clock.sleep(wait).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
