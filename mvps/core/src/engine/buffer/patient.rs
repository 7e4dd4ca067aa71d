//! Buffer stores that wait for room.
//!
//! A disk that is full is no failure (D10): what changes a store for the engine's own purposes waits
//! here until there is room, and is then done. Commits and seals are passed on as they are: the
//! image's task, which makes room, must not stand still for them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::env::{
    BufferBatch, BufferError, BufferHandle, BufferStore, BufferStores, BufferUsage, Clock,
    DiskSpace, Recovered,
};
use crate::ids::{Generation, ImageId};

/// How long to wait before a call for which there was no room is made again: soon enough that nobody
/// waits much longer than the disk is full, and rarely enough to cost nothing.
pub const ROOM_PAUSE: Duration = Duration::from_millis(500);

/// Makes `call` until it does not fail for want of room.
///
/// # Errors
/// Any other failure.
pub async fn once_there_is_room<T, F>(
    clock: &dyn Clock,
    what: &str,
    mut call: impl FnMut() -> F,
) -> Result<T, BufferError>
where
    F: Future<Output = Result<T, BufferError>>,
{
    let mut is_told = false;
    loop {
        match call().await {
            Err(BufferError::Full { reason }) => {
                if !is_told {
                    tracing::warn!(what, reason, "no room on the buffer store's disk: waiting");
                    is_told = true;
                }
                clock.sleep(ROOM_PAUSE).await;
            }
            Ok(done) => {
                if is_told {
                    tracing::info!(what, "there is room again");
                }
                return Ok(done);
            }
            failed => return failed,
        }
    }
}

/// Buffer stores that wait for room.
pub struct PatientBuffers {
    stores: Arc<dyn BufferStores>,
    clock: Arc<dyn Clock>,
}

struct PatientStore {
    store: Arc<dyn BufferStore>,
    clock: Arc<dyn Clock>,
}

impl PatientBuffers {
    /// The same stores, with patience.
    #[must_use]
    pub fn new(stores: Arc<dyn BufferStores>, clock: Arc<dyn Clock>) -> Self {
        Self { stores, clock }
    }
}

#[async_trait]
impl BufferStores for PatientBuffers {
    async fn open(&self, image: &ImageId) -> Result<Recovered, BufferError> {
        let open = || self.stores.open(image);
        let recovered = once_there_is_room(&*self.clock, "opening", open).await?;
        Ok(Recovered {
            store: Arc::new(PatientStore {
                store: recovered.store,
                clock: Arc::clone(&self.clock),
            }),
            ..recovered
        })
    }

    fn space(&self) -> Option<DiskSpace> {
        self.stores.space()
    }

    fn location(&self, image: &ImageId) -> String {
        self.stores.location(image)
    }
}

#[async_trait]
impl BufferStore for PatientStore {
    async fn commit(&self, batch: BufferBatch) -> Result<(), BufferError> {
        self.store.commit(batch).await
    }

    async fn sync(&self) -> Result<(), BufferError> {
        self.store.sync().await
    }

    async fn seal(&self) -> Result<(Generation, Arc<dyn BufferHandle>), BufferError> {
        self.store.seal().await
    }

    async fn active(&self) -> Result<(Generation, Arc<dyn BufferHandle>), BufferError> {
        self.store.active().await
    }

    async fn drop_generation(&self, generation: Generation) -> Result<(), BufferError> {
        let drop = || self.store.drop_generation(generation);
        once_there_is_room(&*self.clock, "dropping a generation", drop).await
    }

    async fn put_metadata(&self, metadata: Bytes) -> Result<(), BufferError> {
        let put = || self.store.put_metadata(metadata.clone());
        once_there_is_room(&*self.clock, "noting metadata", put).await
    }

    fn usage(&self) -> BufferUsage {
        self.store.usage()
    }
}
