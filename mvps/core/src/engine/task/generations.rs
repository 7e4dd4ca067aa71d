//! Upkeep of the buffer's generations: sealing the active one, dropping those that are
//! published.

use std::sync::Arc;

use super::completion::Completion;
use super::plans::jittered;
use super::state::ImageTask;
use crate::engine::buffer::GenerationIndex;
use crate::engine::buffer::patient::once_there_is_room;
use crate::env::{BufferError, BufferHandle};
use crate::ids::Generation;

impl ImageTask {
    pub(super) async fn next_generation(&mut self) -> Result<GenerationIndex, BufferError> {
        let clock = &*self.shared.environment.clock;
        once_there_is_room(clock, "sealing", || self.buffer.seal()).await?;
        let (generation, handle) = self.buffer.active().await?;
        Ok(self.empty_generation(generation, handle))
    }

    fn empty_generation(
        &self,
        generation: Generation,
        handle: Arc<dyn BufferHandle>,
    ) -> GenerationIndex {
        GenerationIndex::new(generation, handle, self.shared.buffer_share.index_memory())
    }

    pub(super) async fn seal(&mut self) {
        let sealed = self.buffer.seal().await;
        let active = match sealed {
            Ok(_) => self.buffer.active().await,
            Err(error) => Err(error),
        };
        match active {
            Ok((generation, handle)) => {
                let next = self.empty_generation(generation, handle);
                let mut sealed = std::mem::replace(&mut self.active, next);
                if crate::mutant::is("seal loses in-flight writes")
                    && let Some((pages, _)) = sealed.records.iter().last()
                {
                    sealed.records.remove(pages);
                }
                self.sealed.push_back(sealed);
                self.room.seal_at = None;
                self.schedule.dirty_since = None;
                let entropy = &*self.shared.environment.entropy;
                self.schedule.interval = jittered(self.shared.config.checkpoint_interval, entropy);
                self.publish_view();
            }
            Err(BufferError::Full { reason }) => self.put_off_seal(&reason),
            Err(error) => self.fail(error.into()),
        }
    }

    /// Drops a generation that nothing needs any more.
    pub(super) fn drop_generation(&mut self, generation: Generation) {
        self.schedule.dropping += 1;
        let (buffer, report) = (Arc::clone(&self.buffer), self.report.clone());
        let dropping = async move {
            let outcome: Result<(), BufferError> = buffer.drop_generation(generation).await;
            drop(buffer);
            // An image that is gone does not wait for it.
            let _ = report.send(Completion::Dropped(outcome)).await;
        };
        self.shared
            .environment
            .spawner
            .spawn("drop generation", Box::pin(dropping));
    }
}
