//! One connection's access to an image: reads, plain writes, flushes, and the beginning of
//! transactions.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::image::Image;
use super::transaction::Transaction;
use crate::content::Content;
use crate::engine::buffer::{Change, changes};
use crate::engine::error::EngineError;
use crate::engine::read::{Base, Extent};
use crate::engine::reply::{Acknowledge, CommitRefusal, Durability, Origin, unrefused};
use crate::engine::request::{CommitRequest, Event};
use crate::ids::{PageSize, Version};
use crate::protocol::Since;

/// One connection's access to an image.
#[derive(Clone)]
pub struct Attachment {
    pub(super) image: Image,
    pub(super) origin: Origin,
}

impl Image {
    /// Access for one connection.
    #[must_use]
    pub fn attach(&self) -> Attachment {
        Attachment {
            image: self.clone(),
            origin: Origin::default(),
        }
    }
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
    /// because another server has the image, otherwise as [`crate::engine::View::read`].
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
    /// [`crate::engine::View::extents`].
    ///
    /// # Errors
    /// [`EngineError::Invalid`] past the end, otherwise as [`crate::engine::View::read`].
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
    /// [`EngineError::Invalid`] if it is not retained, otherwise as [`crate::engine::View::read`].
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

    /// Brings what of the range is only in object storage to the cache: see
    /// [`crate::engine::View::prefetch`].
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
        Ok(Transaction::new(
            self.image.clone(),
            self.origin.clone(),
            id,
            view,
        ))
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
            let old_pages = if patched {
                let view = self.image.view_for(offset, length)?;
                self.image.explained(view.old_pages(&changes).await).await?
            } else {
                Vec::new()
            };
            let (reply, answer) = oneshot::channel();
            let request = CommitRequest {
                origin: self.origin.clone(),
                transaction: None,
                changes,
                old_pages,
                acknowledge: when,
                reply,
            };
            let sent = self.image.events.send(Event::Commit(request)).await;
            sent.map_err(|_| EngineError::Closed)?;
            match answer.await {
                // A checkpoint moved the page meanwhile; the next look finds it where it is now.
                Ok(Err(CommitRefusal::StaleOldPage)) => {}
                other => return unrefused(other),
            }
        }
    }
}
