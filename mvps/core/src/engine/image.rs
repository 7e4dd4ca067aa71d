//! The face of an open image: what sessions and administration call.
//!
//! An [`Image`] sends events to its task and reads views that the task publishes. It holds no state
//! of its own, so any number of clones may be used at once. When the last clone is dropped without
//! [`Image::close`], the task ends and leaves the image as a crash would.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::backpressure::{self, Admission};
use super::bases::{Base, Bases};
use super::changes::{self, Change};
use super::config::EngineConfig;
use super::error::EngineError;
use super::event::{Acknowledge, CommitRefusal, CommitRequest, Durability, Event, Origin};
use super::extents::{Extent, Since};
use super::host::Host;
use super::status::ImageStatus;
use super::transaction::Transaction;
use super::transaction_room::TransactionRoom;
use super::view::View;
use crate::content::Content;
use crate::env::Environment;
use crate::ids::{ImageId, PageSize, Version};

/// What an image's task tells its callers without being asked.
#[derive(Default)]
pub(super) struct Gauges {
    /// Bytes that the buffer takes, for backpressure.
    pub(super) buffered_bytes: AtomicU64,
    /// From the attempt to publish it clean on: another server may be in office.
    pub(super) closed: AtomicBool,
}

/// What all clones of an image share.
pub(super) struct Shared {
    pub(super) id: ImageId,
    pub(super) page_size: PageSize,
    pub(super) config: EngineConfig,
    pub(super) environment: Environment,
    pub(super) host: Host,
    pub(super) gauges: Arc<Gauges>,
    pub(super) transaction_room: TransactionRoom,
    pub(super) bases: Bases,
}

/// An open image.
#[derive(Clone)]
pub struct Image {
    pub(super) shared: Arc<Shared>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) views: watch::Receiver<Arc<View>>,
}

impl Image {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> &ImageId {
        &self.shared.id
    }

    /// Its page size.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.shared.page_size
    }

    /// Its size in bytes; grows only.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.views.borrow().size_bytes
    }

    /// The newest view.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.views.borrow())
    }

    /// Access for one connection.
    #[must_use]
    pub fn attach(&self) -> Attachment {
        Attachment {
            image: self.clone(),
            origin: Origin::default(),
        }
    }

    /// Grows the image to `size_bytes`, a multiple of the page size; smaller sizes change nothing.
    /// The new size is published before this returns (protocol §3.4).
    ///
    /// # Errors
    /// [`EngineError::Fenced`], [`EngineError::Closed`], [`EngineError::Invalid`].
    pub async fn grow(&self, size_bytes: u64) -> Result<(), EngineError> {
        if !size_bytes.is_multiple_of(self.page_size().bytes() as u64) {
            return Err(EngineError::Invalid {
                reason: "the size is no multiple of the page size",
            });
        }
        self.ask(|reply| Event::Grow(size_bytes, reply)).await
    }

    /// Publishes everything that was acknowledged before this call, and returns the version that
    /// has it.
    ///
    /// # Errors
    /// As for a write. Waits while the object store is unavailable.
    pub async fn checkpoint(&self) -> Result<Version, EngineError> {
        self.ask(Event::Checkpoint).await
    }

    /// Publishes everything and that nobody is in office, and releases the buffer store. Waits for
    /// open reads to end, and while the object store is unavailable.
    ///
    /// # Errors
    /// [`EngineError::Fenced`] or the failure that the image is in; the buffer store is released
    /// all the same.
    pub async fn close(&self) -> Result<(), EngineError> {
        self.ask(Event::Close).await
    }

    /// How the image is doing; `None` once it is closed.
    pub async fn status(&self) -> Option<ImageStatus> {
        let (reply, answer) = oneshot::channel();
        self.events.send(Event::Status(reply)).await.ok()?;
        answer.await.ok()
    }

    pub(super) async fn ask<T>(
        &self,
        event: impl FnOnce(oneshot::Sender<Result<T, EngineError>>) -> Event,
    ) -> Result<T, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.events
            .send(event(reply))
            .await
            .map_err(|_| EngineError::Closed)?;
        answer.await.unwrap_or(Err(EngineError::Closed))
    }

    /// The newest view, for an access to a range of it. The view is taken before the look at
    /// whether the image is closed, so that who closes it either sees this view or is seen here.
    fn view_for(&self, offset: u64, length: u64) -> Result<Arc<View>, EngineError> {
        let view = self.view();
        fence(Ordering::SeqCst);
        self.check_range(offset, length)?;
        Ok(view)
    }

    pub(super) fn check_range(&self, offset: u64, length: u64) -> Result<(), EngineError> {
        if self.shared.gauges.closed.load(Ordering::SeqCst) {
            return Err(EngineError::Closed);
        }
        let end = offset.checked_add(length);
        if end.is_some_and(|end| end <= self.size_bytes()) {
            Ok(())
        } else {
            Err(EngineError::Invalid {
                reason: "the range reaches past the end of the image",
            })
        }
    }

    /// Why something that the image names cannot be read, if `outcome` says so: another server may
    /// have the image, and have let go of it.
    pub(super) async fn explained<T>(
        &self,
        outcome: Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let Err(EngineError::Unreadable { .. }) = &outcome else {
            return outcome;
        };
        if crate::mutant::is("a deposed server calls it a failure of the store") {
            return outcome;
        }
        let (reply, answer) = oneshot::channel();
        if self.events.send(Event::Doubt(reply)).await.is_err() {
            return outcome;
        }
        match unrefused(answer.await) {
            Err(fenced @ EngineError::Fenced { .. }) => Err(fenced),
            _ => outcome,
        }
    }

    /// Delays a write of `bytes` as the buffer's fill asks for. At the limit it does not wait here:
    /// the task holds it, in order.
    pub(super) async fn slow_down(&self, bytes: u64) {
        let used = self.shared.gauges.buffered_bytes.load(Ordering::Relaxed);
        let limit = self.shared.config.buffer_limit_bytes;
        if let Admission::After(delay) = backpressure::admit(used, limit, bytes)
            && !delay.is_zero()
        {
            self.shared.environment.clock.sleep(delay).await;
        }
    }
}

/// One connection's access to an image.
#[derive(Clone)]
pub struct Attachment {
    pub(super) image: Image,
    pub(super) origin: Origin,
}

impl Attachment {
    /// The image.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Reads `length` bytes at `offset`.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] past the end, [`EngineError::Fenced`] if what is to be read is gone
    /// because another server has the image, otherwise as [`View::read`].
    pub async fn read(&self, offset: u64, length: u32) -> Result<Content, EngineError> {
        let view = self.image.view_for(offset, u64::from(length))?;
        let read = view.read(offset, length as usize).await;
        self.image.explained(read).await
    }

    /// Writes `data` at `offset`, atomically.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn write(
        &self,
        offset: u64,
        data: Bytes,
        when: Acknowledge,
    ) -> Result<(), EngineError> {
        let length = data.len() as u64;
        let changes = |size| changes::of_write(size, offset, &data);
        self.change(offset, length, length, when, changes).await
    }

    /// Makes `length` bytes at `offset` read as zeroes, atomically and exactly.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        when: Acknowledge,
    ) -> Result<(), EngineError> {
        let range = offset..offset.saturating_add(length);
        let changes = |size| changes::of_write_zeroes(size, range.clone());
        self.change(offset, length, 0, when, changes).await
    }

    /// Frees the whole pages within the range, atomically; they read as zeroes.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn trim(
        &self,
        offset: u64,
        length: u64,
        when: Acknowledge,
    ) -> Result<(), EngineError> {
        let range = offset..offset.saturating_add(length);
        let changes = |size| changes::of_trim(size, range.clone());
        self.change(offset, length, 0, when, changes).await
    }

    /// What of the range has content, or with a `base`, may have other content than the base: see
    /// [`View::extents`].
    ///
    /// # Errors
    /// [`EngineError::Invalid`] past the end, otherwise as [`View::read`].
    pub async fn extents(
        &self,
        offset: u64,
        length: u64,
        base: Option<&Base>,
        extents_max: usize,
    ) -> Result<Vec<Extent>, EngineError> {
        let view = self.image.view_for(offset, length)?;
        let range = offset..offset + length;
        let extents = view.extents(range, base, extents_max).await;
        self.image.explained(extents).await
    }

    /// The version that `since` means, for [`Self::base`].
    ///
    /// # Errors
    /// [`EngineError::Invalid`] if it is not retained, otherwise as [`View::read`].
    pub async fn find_base(&self, since: &Since) -> Result<Version, EngineError> {
        let shared = &self.image.shared;
        shared.bases.find(&shared.host, &shared.id, since).await
    }

    /// An earlier state of the image for [`Self::extents`], to be used and let go of: others wait
    /// while too many are in use.
    ///
    /// # Errors
    /// As for [`Self::find_base`].
    pub async fn base(&self, version: Version) -> Result<Base, EngineError> {
        let shared = &self.image.shared;
        shared.bases.get(&shared.host, &shared.id, version).await
    }

    /// Brings what of the range is only in object storage to the cache: see [`View::prefetch`].
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub async fn prefetch(&self, offset: u64, length: u64) -> Result<(), EngineError> {
        let view = self.image.view_for(offset, length)?;
        let prefetched = view.prefetch(offset..offset + length).await;
        self.image.explained(prefetched).await
    }

    /// Returns once everything that was acknowledged before this call is durable, on this and every
    /// other connection of the image.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn flush(&self, durability: Durability) -> Result<(), EngineError> {
        let (reply, answer) = oneshot::channel();
        let event = Event::Flush(durability, reply);
        self.image
            .events
            .send(event)
            .await
            .map_err(|_| EngineError::Closed)?;
        unrefused(answer.await)
    }

    /// Begins a transaction on the newest view.
    ///
    /// # Errors
    /// [`EngineError::TransactionTooLarge`] if too many are open, or the image's failure.
    pub async fn begin(&self) -> Result<Transaction, EngineError> {
        let origin = self.origin.clone();
        let (id, view) = self.image.ask(|reply| Event::Begin(origin, reply)).await?;
        Ok(Transaction::new(self.clone(), id, view))
    }

    /// Cancels everything of this connection that is not committed yet. When this returns, nothing
    /// of it can take effect any more.
    pub async fn revoke(&self) {
        self.origin.revoke();
        let (reply, answer) = oneshot::channel();
        if self.image.events.send(Event::Barrier(reply)).await.is_ok() {
            // A closed image commits nothing either.
            let _ = answer.await;
        }
    }

    async fn change(
        &self,
        offset: u64,
        length: u64,
        data_bytes: u64,
        when: Acknowledge,
        changes: impl Fn(PageSize) -> Vec<Change>,
    ) -> Result<(), EngineError> {
        self.image.check_range(offset, length)?;
        self.image.slow_down(data_bytes).await;
        loop {
            let changes = changes(self.image.page_size());
            let patched = changes
                .iter()
                .any(|change| matches!(change, Change::Patch { .. }));
            let bases = if patched {
                let view = self.image.view_for(offset, length)?;
                self.image.explained(view.bases(&changes).await).await?
            } else {
                Vec::new()
            };
            let (reply, answer) = oneshot::channel();
            let request = CommitRequest {
                origin: self.origin.clone(),
                transaction: None,
                changes,
                bases,
                acknowledge: when,
                reply,
            };
            let sent = self.image.events.send(Event::Commit(request)).await;
            sent.map_err(|_| EngineError::Closed)?;
            match answer.await {
                // A checkpoint moved the page meanwhile; the next look finds it where it is now.
                Ok(Err(CommitRefusal::StaleBase)) => {}
                other => return unrefused(other),
            }
        }
    }
}

/// The outcome of a request whose task may be gone, and which has no stale base.
pub(super) fn unrefused(
    answer: Result<Result<(), CommitRefusal>, oneshot::error::RecvError>,
) -> Result<(), EngineError> {
    match answer {
        Ok(Ok(())) => Ok(()),
        Ok(Err(CommitRefusal::Failed(error))) => Err(error),
        Ok(Err(CommitRefusal::StaleBase)) => unreachable!("only patches have bases"),
        Err(_) => Err(EngineError::Closed),
    }
}
