//! Streams one large object to the store in parts of equal size.
//!
//! Memory is bounded: at most [`PARTS_IN_FLIGHT_MAX`] parts under way and one being filled. An
//! object that fits one part is a plain put.
//!
//! Must never abort an upload: a request that seemed lost may still land, and a manifest may then
//! reference the object (protocol §3.7). What a dropped writer leaves is the collector's.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::retrying::RetryingStore;
use crate::env::{PartTag, Spawner, StoreError, UploadId};
/// Parts of one upload under way at once: hides the store's latency, and bounds memory.
pub const PARTS_IN_FLIGHT_MAX: usize = 4;
/// S3 takes no more parts in one upload.
pub const PARTS_MAX: u32 = 10_000;

type PartResult = Result<PartTag, StoreError>;

/// Writes one object from its first byte to its last. Dropping it stops the work and leaves the
/// unfinished upload as it is.
pub struct UploadWriter {
    store: RetryingStore,
    spawner: Arc<dyn Spawner>,
    key: String,
    part_bytes: usize,
    filling: BytesMut,
    sent_bytes: u64,
    upload: Option<UploadId>,
    in_flight: VecDeque<oneshot::Receiver<PartResult>>,
    tags: Vec<PartTag>,
    parts_started: u32,
}

impl UploadWriter {
    /// A writer of `key` in parts of [`PART_BYTES`], unless `store` says otherwise. `store`'s patience holds for every request.
    #[must_use]
    pub fn new(store: RetryingStore, spawner: Arc<dyn Spawner>, key: String) -> Self {
        let part_bytes = store.part_bytes();
        Self::with_part_bytes(store, spawner, key, part_bytes)
    }

    /// As [`Self::new`], with parts of `part_bytes`, at least 5 MiB for S3.
    #[must_use]
    pub fn with_part_bytes(
        store: RetryingStore,
        spawner: Arc<dyn Spawner>,
        key: String,
        part_bytes: usize,
    ) -> Self {
        assert!(part_bytes > 0, "a part holds something");
        Self {
            store,
            spawner,
            key,
            part_bytes,
            filling: BytesMut::new(),
            sent_bytes: 0,
            upload: None,
            in_flight: VecDeque::new(),
            tags: Vec::new(),
            parts_started: 0,
        }
    }

    /// Bytes written so far, which is the offset of the next byte.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.sent_bytes + self.filling.len() as u64
    }

    /// Appends `data`; waits while too many parts are under way.
    ///
    /// # Errors
    /// As the store. The writer is of no use afterwards.
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), StoreError> {
        while !data.is_empty() {
            // A full part goes out only when more follows, so that the last part is never empty
            // and an object of exactly one part is a put.
            if self.filling.len() == self.part_bytes {
                self.send_part().await?;
            }
            if self.filling.capacity() == 0 && self.upload.is_some() {
                self.filling.reserve(self.part_bytes);
            }
            let room = self.part_bytes - self.filling.len();
            let taken = data.split_to(room.min(data.len()));
            self.filling.extend_from_slice(&taken);
        }
        Ok(())
    }

    /// Writes what is left and makes the object; returns its size.
    ///
    /// # Errors
    /// As the store. Whether the object exists is then open.
    pub async fn finish(mut self) -> Result<u64, StoreError> {
        let size_bytes = self.position();
        if self.upload.is_none() {
            self.store
                .put(&self.key, self.filling.split().freeze())
                .await?;
            return Ok(size_bytes);
        }
        self.send_part().await?;
        while !self.in_flight.is_empty() {
            self.take_oldest().await?;
        }
        let upload = self.upload.take().expect("an upload was started above");
        self.store
            .complete_upload(&self.key, &upload, &self.tags, size_bytes)
            .await?;
        Ok(size_bytes)
    }

    async fn send_part(&mut self) -> Result<(), StoreError> {
        self.take_finished()?;
        if self.in_flight.len() == PARTS_IN_FLIGHT_MAX {
            self.take_oldest().await?;
        }
        if self.parts_started == PARTS_MAX {
            let reason = format!("{} needs more than {PARTS_MAX} parts", self.key);
            return Err(StoreError::Invalid { reason });
        }
        let upload = match &self.upload {
            Some(upload) => upload.clone(),
            None => {
                let upload = self.store.start_upload(&self.key).await?;
                self.upload.insert(upload).clone()
            }
        };
        self.parts_started += 1;
        let body = self.filling.split().freeze();
        self.filling = BytesMut::new();
        self.sent_bytes += body.len() as u64;
        let (mut sender, receiver) = oneshot::channel();
        let (store, key, number) = (self.store.clone(), self.key.clone(), self.parts_started);
        let task = async move {
            let result = {
                let part = store.upload_part(&key, &upload, number, body);
                tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    result = part => result,
                }
            };
            // Nobody waits any more if the writer was dropped just now.
            let _ = sender.send(result);
        };
        self.spawner.spawn("upload part", task.boxed());
        self.in_flight.push_back(receiver);
        Ok(())
    }

    async fn take_oldest(&mut self) -> Result<(), StoreError> {
        // Peeked, so that a cancelled wait loses nothing.
        let oldest = self
            .in_flight
            .front_mut()
            .expect("the caller saw a part in flight");
        let result = oldest.await;
        self.in_flight.pop_front();
        self.tags.push(settle(result)?);
        Ok(())
    }

    /// Takes tags of parts that are done, so that a failure is seen early.
    fn take_finished(&mut self) -> Result<(), StoreError> {
        while let Some(oldest) = self.in_flight.front_mut() {
            let Some(result) = oldest.now_or_never() else {
                break;
            };
            self.in_flight.pop_front();
            self.tags.push(settle(result)?);
        }
        Ok(())
    }
}

/// A part's task ends without a result only when the runtime is being shut down.
fn settle(result: Result<PartResult, oneshot::error::RecvError>) -> PartResult {
    let shut_down = || StoreError::Unavailable {
        reason: "the process is ending".to_owned(),
    };
    result.unwrap_or_else(|_| Err(shut_down()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::memory::testing::{TestClock, TestSpawner};
    use crate::env::memory::{MemoryObjectStore, SeededEntropy, Verdict};
    use crate::env::{ObjectStore, OperationKind};

    const PART: usize = 5 * 1024 * 1024;

    fn writer(objects: &Arc<MemoryObjectStore>) -> UploadWriter {
        let (clock, entropy) = (
            Arc::new(TestClock::start()),
            Arc::new(SeededEntropy::new(1)),
        );
        let store = RetryingStore::new(objects.clone(), clock, entropy);
        UploadWriter::with_part_bytes(store, Arc::new(TestSpawner), "object".to_owned(), PART)
    }

    fn body(length: usize) -> Bytes {
        (0..length)
            .map(|index| (index ^ (index >> 9)).to_le_bytes()[0])
            .collect()
    }

    async fn write(writer: &mut UploadWriter, body: &Bytes, step: usize) {
        for start in (0..body.len()).step_by(step) {
            let end = body.len().min(start + step);
            writer.write(body.slice(start..end)).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn parts_are_equal_and_small_objects_are_puts() {
        for (length, expected_parts) in [
            (0, 0),
            (1, 0),
            (PART, 0),
            (PART + 1, 2),
            (3 * PART, 3),
            (7 * PART + 5, 8),
        ] {
            for step in [777_777, 3 * PART] {
                let objects = Arc::new(MemoryObjectStore::new());
                let mut writer = writer(&objects);
                let body = body(length);
                write(&mut writer, &body, step).await;
                assert_eq!(writer.position(), length as u64);
                assert_eq!(writer.finish().await, Ok(length as u64));
                assert!(objects.peek("object") == Some(body), "{length} by {step}");
                let parts = objects.count(OperationKind::UploadPart);
                assert_eq!(parts, expected_parts, "{length} by {step}");
                let puts = usize::from(expected_parts == 0);
                assert_eq!(
                    objects.count(OperationKind::Put),
                    puts,
                    "{length} by {step}"
                );
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lost_replies_change_nothing() {
        let objects = Arc::new(MemoryObjectStore::new());
        objects.set_script(|operation| match operation.number % 3 {
            0 => Verdict::reply_lost(),
            1 => Verdict::HangAfter,
            _ => Verdict::Serve,
        });
        let mut writer = writer(&objects);
        let body = body(6 * PART + 1);
        write(&mut writer, &body, PART / 2).await;
        assert_eq!(writer.finish().await, Ok(body.len() as u64));
        assert!(objects.peek("object") == Some(body));
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_bounds_memory_and_a_dropped_writer_stops() {
        let objects = Arc::new(MemoryObjectStore::new());
        objects.set_script(|operation| match operation.kind {
            OperationKind::UploadPart => Verdict::Hang,
            _ => Verdict::Serve,
        });
        let mut writer = writer(&objects);
        write(&mut writer, &body(5 * PART), PART).await;
        assert!(
            writer
                .write(Bytes::from_static(b"x"))
                .now_or_never()
                .is_none()
        );
        assert_eq!(
            objects.count(OperationKind::UploadPart),
            0,
            "tasks have not run yet"
        );
        tokio::task::yield_now().await;
        assert_eq!(
            objects.count(OperationKind::UploadPart),
            PARTS_IN_FLIGHT_MAX
        );
        drop(writer);
        objects.clear_script();
        tokio::time::sleep(std::time::Duration::from_secs(600)).await;
        assert_eq!(
            objects.count(OperationKind::UploadPart),
            PARTS_IN_FLIGHT_MAX,
            "no retries"
        );
        assert_eq!(objects.count(OperationKind::AbortUpload), 0);
        assert_eq!(
            objects.list_uploads("").await.unwrap().len(),
            1,
            "left to the collector"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_part_fails_the_writer() {
        let objects = Arc::new(MemoryObjectStore::new());
        objects.set_script(|operation| match operation.kind {
            OperationKind::UploadPart => Verdict::Fail(StoreError::Denied {
                reason: "scripted".to_owned(),
            }),
            _ => Verdict::Serve,
        });
        let mut writer = writer(&objects);
        write(&mut writer, &body(2 * PART), PART).await;
        assert!(matches!(
            writer.finish().await,
            Err(StoreError::Denied { .. })
        ));
        assert_eq!(objects.count(OperationKind::CompleteUpload), 0);
    }
}
