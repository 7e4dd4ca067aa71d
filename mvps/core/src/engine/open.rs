//! Opens an image: locks and recovers its buffer store, becomes the active writer, rebuilds what
//! the task keeps in memory, and starts the task (protocol §2).

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::buffer::patient::once_there_is_room;
use super::buffer::{GenerationIndex, IndexMemory};
use super::config::EngineConfig;
use super::handle::{Bases, Gauges, Image, Shared};
use super::host::Host;
use super::publisher::{Publisher, PublisherParts};
use super::read::{FrameReader, Map, MapGuard, View};
use super::task::{ImageTask, TaskParts};
use crate::encryption::ImageKeys;
use crate::env::{BufferError, BufferStore, Clock, Recovered, Spawner, SpawnerExt};
use crate::format::manifest::Manifest;
use crate::ids::{Lsn, Version};
use crate::object_reads::ReadError;
use crate::protocol::{
    ManifestStore, Opened, Opener, OpeningError, OpeningRequest, TenureCheck, open_image,
    usable_keys,
};
use crate::store::Patience;

/// How long a tenure check waits for the object store before the answer is "nobody could say".
const TENURE_CHECK_PATIENCE: std::time::Duration = std::time::Duration::from_secs(3);

/// Why an image was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The protocol does not let it, or the manifest could not be read or published.
    #[error(transparent)]
    Opening(#[from] OpeningError),
    /// The buffer store is in use, damaged or cannot be read.
    #[error(transparent)]
    Buffer(#[from] BufferError),
    /// The image's map cannot be read.
    #[error("cannot read the image's map: {0}")]
    Map(#[from] ReadError),
}

/// Opens `request.image`, making it where the request allows that. Waits while the object store is
/// unavailable.
///
/// # Errors
/// [`OpenError`]; nothing in the buffer store is lost then.
pub async fn open(
    host: &Host,
    request: &OpeningRequest,
    config: EngineConfig,
) -> Result<Image, OpenError> {
    let environment = &host.environment;
    let location = environment.buffers.location(&request.image);
    // First of all: a second start by accident fails here, before it fences anybody.
    let mut recovered = environment.buffers.open(&request.image).await?;
    let manifests = ManifestStore::new(host.store.clone());
    let opener = Opener {
        manifests: &manifests,
        clock: &*environment.clock,
        entropy: &*environment.entropy,
        owner: &config.owner,
        root_keys: &host.root_keys,
    };
    let opened = open_image(&opener, &mut recovered, &location, request).await?;
    let keys = usable_keys(&host.root_keys, &opened.manifest).map_err(OpeningError::from)?;
    let store = Arc::clone(&recovered.store);
    let buffered = Buffered::recover(
        &*environment.spawner,
        &*environment.clock,
        recovered,
        &opened,
        host.buffer_budget.index_memory(),
    )
    .await?;
    let map = Map::open(&opened.manifest, Arc::clone(&host.leaves)).await?;
    tracing::info!(
        image = %request.image, tenure = %opened.manifest.tenure, version = %opened.manifest.version,
        lsn = %opened.last_lsn, published_lsn = %opened.manifest.lsn, created = opened.created,
        encrypted = opened.manifest.own_data_key().is_some(), "opened"
    );
    let parts = Parts {
        manifests,
        store,
        buffered,
        map,
        keys: Arc::new(keys),
    };
    Ok(start(host, config, opened, parts))
}

/// What recovery found, without what is published already.
struct Buffered {
    active: GenerationIndex,
    sealed: VecDeque<GenerationIndex>,
    memory: Arc<IndexMemory>,
}

impl Buffered {
    async fn recover(
        spawner: &dyn Spawner,
        clock: &dyn Clock,
        recovered: Recovered,
        opened: &Opened,
        memory: Arc<IndexMemory>,
    ) -> Result<Self, BufferError> {
        let page_size = opened.manifest.page_size;
        let store = recovered.store;
        let mut generations = VecDeque::new();
        for found in recovered.generations {
            // Millions of records take seconds.
            let memory = Arc::clone(&memory);
            let index = spawner.run(move || {
                let (generation, records) = (found.generation, found.records);
                GenerationIndex::recover(generation, found.handle, records, page_size, &memory)
            });
            generations.push_back(index.await?);
        }
        let active = generations
            .pop_back()
            .expect("a buffer store has an active generation");
        // These first, so that a seal finds room.
        for generation in &opened.covered {
            if *generation != active.generation {
                store.drop_generation(*generation).await?;
            }
        }
        let active = if opened.covered.contains(&active.generation) {
            once_there_is_room(clock, "sealing", || store.seal()).await?;
            store.drop_generation(active.generation).await?;
            let (generation, handle) = store.active().await?;
            GenerationIndex::new(generation, handle, &memory)
        } else {
            active
        };
        let sealed = generations
            .into_iter()
            .filter(|one| !opened.covered.contains(&one.generation));
        Ok(Self {
            active,
            sealed: sealed.collect(),
            memory,
        })
    }

    fn is_empty(&self) -> bool {
        self.active.is_empty() && self.sealed.iter().all(GenerationIndex::is_empty)
    }
}

/// What an image is started with.
struct Parts {
    manifests: ManifestStore,
    store: Arc<dyn BufferStore>,
    buffered: Buffered,
    map: Map,
    keys: Arc<ImageKeys>,
}

fn start(host: &Host, config: EngineConfig, opened: Opened, parts: Parts) -> Image {
    let Parts {
        manifests,
        store: buffer,
        buffered,
        map,
        keys,
    } = parts;
    let manifest = opened.manifest;
    let guard = Arc::new(MapGuard(1));
    let frames = FrameReader::new(
        Arc::clone(&host.frames),
        manifest.page_size,
        Arc::clone(&keys),
    );
    let mut generations = vec![buffered.active.clone()];
    generations.extend(buffered.sealed.iter().rev().cloned());
    let view = View {
        lsn: opened.last_lsn,
        size_bytes: manifest.size_bytes,
        page_size: manifest.page_size,
        generations,
        map: map.clone(),
        guard: Arc::clone(&guard),
        frames: Arc::new(frames),
    };
    let published = published(&manifest, &buffered, opened.last_lsn);
    let tenure_check = TenureCheck::new(opened.confirmed_at, config.tenure_confirmed_for);
    let patience = Patience::For(TENURE_CHECK_PATIENCE);
    let impatient_manifests = ManifestStore::new(host.store.with_patience(patience));
    let (compression, compaction) = (config.compression, config.compaction);
    let limits = config.limits;
    let limit_bytes = config.buffer_limit_bytes;
    let buffer_share = host.buffer_budget.share(limit_bytes, buffered.memory);
    let shared = Arc::new(Shared {
        id: manifest.image.clone(),
        page_size: manifest.page_size,
        config,
        environment: host.environment.clone(),
        host: host.clone(),
        gauges: Arc::new(Gauges::default()),
        buffer_share,
        transaction_budget: host.transaction_budget.of_another_image(),
        bases: Bases::default(),
    });
    let (events, received) = mpsc::channel(limits.events_max);
    let (publish_view, views) = watch::channel(Arc::new(view));
    let (order_abandon, abandon) = watch::channel(false);
    let tenure = manifest.tenure;
    let publisher = Publisher::new(PublisherParts {
        host: host.clone(),
        compression,
        compaction,
        limits,
        manifests,
        buffer: Arc::clone(&buffer),
        opened: manifest,
        metadata: opened.metadata,
        map,
        guard,
        keys,
        abandon,
    });
    let task = ImageTask::new(TaskParts {
        shared: Arc::clone(&shared),
        tenure,
        tenure_check,
        impatient_manifests,
        events: received,
        views: publish_view,
        buffer,
        active: buffered.active,
        sealed: buffered.sealed,
        lsn: opened.last_lsn,
        published,
        publisher,
        abandon: order_abandon,
    });
    let spawner = &host.environment.spawner;
    spawner.spawn("image", Box::pin(task.run()));
    Image::new(shared, events, views)
}

/// The newest version, and the last commit in it.
fn published(manifest: &Manifest, buffered: &Buffered, last_lsn: Lsn) -> (Version, Lsn) {
    // If nothing is buffered, everything there ever was is published.
    let lsn = if buffered.is_empty() {
        last_lsn
    } else {
        manifest.lsn
    };
    (manifest.version, lsn)
}
