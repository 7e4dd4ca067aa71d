//! The face of an open image: what sessions and administration call.
//!
//! An [`Image`] sends events to its task and reads views that the task publishes. It holds no state
//! of its own, so any number of clones may be used at once. When the last clone is dropped without
//! [`Image::close`], the task ends and leaves the image as a crash would.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use tokio::sync::{mpsc, oneshot, watch};

use super::shared::Shared;
use crate::engine::buffer::backpressure::{self, Admission};
use crate::engine::error::EngineError;
use crate::engine::read::View;
use crate::engine::reply::unrefused;
use crate::engine::request::Event;
use crate::engine::status::ImageStatus;
use crate::ids::{ImageId, PageSize, Version};

/// An open image.
#[derive(Clone)]
pub struct Image {
    pub(super) shared: Arc<Shared>,
    pub(super) events: mpsc::Sender<Event>,
    views: watch::Receiver<Arc<View>>,
}

impl Image {
    pub(in crate::engine) fn new(
        shared: Arc<Shared>,
        events: mpsc::Sender<Event>,
        views: watch::Receiver<Arc<View>>,
    ) -> Self {
        Self {
            shared,
            events,
            views,
        }
    }

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

    /// Publishes everything and that nobody is the active writer, and releases the buffer store.
    /// Waits for open reads to end, and while the object store is unavailable.
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
    pub(super) fn view_for(&self, offset: u64, length: u64) -> Result<Arc<View>, EngineError> {
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
        if crate::mutant::is("a fenced server calls it a failure of the store") {
            return outcome;
        }
        let (reply, answer) = oneshot::channel();
        if self.events.send(Event::CheckFencing(reply)).await.is_err() {
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
        if let Admission::After(delay) = backpressure::admit(self.shared.buffer_share.fill(), bytes)
            && !delay.is_zero()
        {
            self.shared.environment.clock.sleep(delay).await;
        }
    }
}
