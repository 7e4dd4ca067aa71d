//! Answers to an operator who asks through the control socket.

use std::time::Duration;

use async_trait::async_trait;
use mvps_core::engine::{EngineError, Host, Image, ImageStatus};
use mvps_core::env::Moment;
use mvps_core::ids::ImageId;
use mvps_core::session::{EngineImages, Server};

use super::image_operations::{ImageOperations, NotDone};
use super::memory::ResidentMemory;
use super::settings::ServerSettings;
use crate::control::{
    CachesReport, ControlHandler, Health, HeldUpReport, ImageReport, NodeReport, Reply, Request,
};

/// How long a status waits for one image. One that is being opened or closed answers nothing before
/// that is done, which may take as long as the object store takes.
const IMAGE_PATIENCE: Duration = Duration::from_secs(1);

/// Looks into the server on behalf of an operator.
pub struct Operator {
    server: Server<EngineImages>,
    host: Host,
    operations: ImageOperations,
    started: Moment,
    listen: Vec<String>,
    image_store: String,
    buffer_store_path: String,
}

impl Operator {
    /// An operator's view of `server`.
    #[must_use]
    pub fn new(
        server: Server<EngineImages>,
        host: Host,
        settings: &ServerSettings,
        listen: Vec<String>,
    ) -> Self {
        Self {
            started: host.environment.clock.now(),
            operations: ImageOperations::new(server.clone(), host.clone()),
            server,
            host,
            listen,
            image_store: settings.image_store.to_string(),
            buffer_store_path: settings.buffer_store_path.display().to_string(),
        }
    }

    async fn status(&self) -> NodeReport {
        let memory = ResidentMemory::read();
        let (mut images, mut images_busy) = (Vec::new(), Vec::new());
        for id in self.server.image_ids() {
            match tokio::time::timeout(IMAGE_PATIENCE, self.open_image(&id)).await {
                // An image that closed meanwhile is not open any more.
                Ok(report) => images.extend(report),
                Err(_) => images_busy.push(id.to_string()),
            }
        }
        NodeReport {
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: uptime_ms(self.host.environment.clock.now(), self.started),
            listen: self.listen.clone(),
            image_store: self.image_store.clone(),
            buffer_store_path: self.buffer_store_path.clone(),
            rss_bytes: memory.map(|memory| memory.now_bytes),
            rss_peak_bytes: memory.map(|memory| memory.peak_bytes),
            object_store: self.host.store.statistics().into(),
            caches: caches(&self.host),
            images,
            images_busy,
        }
    }

    async fn open_image(&self, id: &ImageId) -> Option<ImageReport> {
        let (served, connections) = self.server.image_and_connections(id).await?;
        let image = served.live()?;
        let status = image.status().await?;
        Some(report(image, connections, &status))
    }
}

#[async_trait]
impl ControlHandler for Operator {
    async fn answer(&self, request: Request) -> Reply {
        let operations = &self.operations;
        match request {
            Request::Status => Reply::Status(Box::new(self.status().await)),
            Request::Checkpoint { image } => {
                reply(operations.checkpoint(&image).await, Reply::Checkpointed)
            }
            Request::Rollback {
                image,
                to,
                discard_unpublished,
            } => {
                let done = operations.roll_back(&image, to.into(), discard_unpublished);
                reply(done.await, Reply::RolledBack)
            }
            Request::Resize { image, size_bytes } => {
                reply(operations.resize(&image, size_bytes).await, Reply::Resized)
            }
            Request::Rekey { image, root_key } => {
                let done = operations.rekey(&image, root_key.as_deref());
                reply(done.await, Reply::Rekeyed)
            }
        }
    }
}

fn reply<T>(outcome: Result<T, NotDone>, done: impl FnOnce(T) -> Reply) -> Reply {
    match outcome {
        Ok(value) => done(value),
        Err(NotDone::NotOpen(image)) => Reply::NotOpen {
            image: image.to_string(),
        },
        Err(NotDone::Failed(message)) => Reply::Failed { message },
    }
}

fn uptime_ms(now: Moment, started: Moment) -> u64 {
    u64::try_from(now.since(started).as_millis()).unwrap_or(u64::MAX)
}

fn caches(host: &Host) -> CachesReport {
    let frames = host.frames.by_level();
    CachesReport {
        memory_bytes: host.frames.used_bytes() + host.leaves.used_bytes(),
        frames_from_memory: frames.memory,
        frames_from_disk: frames.disk,
        frames_from_store: frames.store,
        disk: host.disk_cache().map(|disk| disk.usage().into()),
    }
}

fn report(image: &Image, connections: usize, status: &ImageStatus) -> ImageReport {
    ImageReport {
        image: image.id().to_string(),
        size_bytes: status.size_bytes,
        page_size_bytes: image.page_size().bytes() as u64,
        lsn: status.lsn.0,
        flushed_lsn: status.synced_lsn.0,
        published_version: status.version.0,
        published_lsn: status.published_lsn.0,
        buffered_bytes: status.buffered_bytes,
        buffer_disk_bytes: status.buffer_disk_bytes,
        generations_waiting: status.sealed_generations as u64,
        publishing: status.publishing,
        transactions: status.transactions as u64,
        stalled: status.stalled as u64,
        held_up: status.held_up.map(|held_up| HeldUpReport {
            by: held_up.by.description().to_owned(),
            held_ms: u64::try_from(held_up.held.as_millis()).unwrap_or(u64::MAX),
        }),
        space: status.space.into(),
        connections: connections as u64,
        tenure: status.tenure.to_string(),
        health: match &status.failure {
            None => Health::Healthy,
            Some(EngineError::Fenced { .. }) => Health::Fenced,
            Some(_) => Health::Poisoned,
        },
        reason: status.failure.as_ref().map(ToString::to_string),
    }
}
