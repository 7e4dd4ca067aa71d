//! What the publisher holds between its jobs, and what the image's task asks it without one.

use std::sync::Arc;

use tokio::sync::watch;

use super::cleaning::plan::Urgency;
use super::cleaning::{Cleaning, CompactionSettings, SpaceStatus, own_reader};
use super::names::ObjectNames;
use super::retirement::Retirement;
use super::segment_writer::memory_bytes;
use crate::encryption::ImageKeys;
use crate::engine::host::Host;
use crate::engine::limits::Limits;
use crate::engine::read::{FrameReader, Map, MapGuard};
use crate::engine::upload_budget::UploadReservation;
use crate::env::{BufferStore, Moment};
use crate::format::buffer_metadata::BufferMetadata;
use crate::format::manifest::Manifest;
use crate::ids::{PublicationCounter, Tenure, Version};
use crate::protocol::ManifestStore;

/// Whoever holds it may upload and publish for the tenure.
pub(in crate::engine) struct Publisher {
    pub(super) host: Host,
    pub(super) compression: Option<i32>,
    pub(super) limits: Limits,
    pub(super) manifests: ManifestStore,
    pub(super) buffer: Arc<dyn BufferStore>,
    pub(super) tenure: Tenure,
    /// The newest manifest that is known: the base of the next publication.
    pub(super) newest: Manifest,
    /// The counter of the last body that was composed.
    pub(super) last_publication: PublicationCounter,
    pub(super) metadata: BufferMetadata,
    pub(super) names: ObjectNames,
    pub(super) map: Map,
    pub(super) cleaning: Cleaning,
    /// What segments are sealed with.
    pub(super) keys: Arc<ImageKeys>,
    /// Reads for cleaning, apart from what clients read.
    pub(super) reader: FrameReader,
    /// What views of earlier maps may still read.
    pub(super) retirement: Retirement,
    /// Whether the task wants a checkpoint's uploads abandoned.
    pub(super) abandon: watch::Receiver<bool>,
    /// Just before the listing that last showed that the tenure is active.
    pub(super) confirmed_at: Option<Moment>,
}

/// What a publisher begins with.
pub(in crate::engine) struct PublisherParts {
    pub(in crate::engine) host: Host,
    /// Level of zstd for segments, or `None` to store pages as they are.
    pub(in crate::engine) compression: Option<i32>,
    pub(in crate::engine) compaction: CompactionSettings,
    pub(in crate::engine) limits: Limits,
    pub(in crate::engine) manifests: ManifestStore,
    pub(in crate::engine) buffer: Arc<dyn BufferStore>,
    /// The manifest that opened the tenure.
    pub(in crate::engine) opened: Manifest,
    pub(in crate::engine) metadata: BufferMetadata,
    pub(in crate::engine) map: Map,
    /// Of the views that are made first.
    pub(in crate::engine) guard: Arc<MapGuard>,
    pub(in crate::engine) keys: Arc<ImageKeys>,
    /// Whether the task wants a checkpoint's uploads abandoned.
    pub(in crate::engine) abandon: watch::Receiver<bool>,
}

impl Publisher {
    pub(in crate::engine) fn new(parts: PublisherParts) -> Self {
        let opened = parts.opened;
        let entropy = Arc::clone(&parts.host.environment.entropy);
        Self {
            compression: parts.compression,
            limits: parts.limits,
            manifests: parts.manifests,
            buffer: parts.buffer,
            tenure: opened.tenure,
            last_publication: opened.publication,
            metadata: parts.metadata,
            names: ObjectNames::new(&opened, entropy),
            map: parts.map,
            cleaning: Cleaning::new(parts.compaction, &opened),
            reader: own_reader(&parts.host, opened.page_size, Arc::clone(&parts.keys)),
            keys: parts.keys,
            retirement: Retirement::new(&parts.guard),
            abandon: parts.abandon,
            confirmed_at: None,
            newest: opened,
            host: parts.host,
        }
    }

    /// The tenure that it publishes for; a rollback begins another.
    pub(in crate::engine) fn tenure(&self) -> Tenure {
        self.tenure
    }

    /// The image's size in the newest manifest that is known.
    pub(in crate::engine) fn size_bytes(&self) -> u64 {
        self.newest.size_bytes
    }

    /// How urgently a step of cleaning is wanted.
    pub(in crate::engine) fn urgency(&self) -> Urgency {
        self.cleaning.urgency()
    }

    /// Whether a publication would let go of what a map compaction dropped.
    pub(in crate::engine) fn wants_release(&self) -> bool {
        self.cleaning.wants_release(&self.newest)
    }

    /// What is in object storage, and how cleaning goes.
    pub(in crate::engine) fn space(&self) -> SpaceStatus {
        self.cleaning.status(&self.newest)
    }

    /// Memory to write so much content with, once uploads of the process leave it.
    pub(super) async fn memory_for(&self, content_bytes: u64) -> UploadReservation {
        let part_bytes = self.host.store.part_bytes();
        let bytes = memory_bytes(&self.limits, part_bytes, content_bytes);
        self.host.upload_budget.reserve(bytes).await
    }

    /// Whether the image's task is gone: nothing is published any more then.
    pub(super) fn is_orphaned(&self) -> bool {
        self.abandon.has_changed().is_err()
    }

    /// The newest version that is known.
    pub(in crate::engine) fn version(&self) -> Version {
        self.newest.version
    }

    /// Just before the listing that last showed that the tenure is active.
    pub(in crate::engine) fn confirmed_at(&self) -> Option<Moment> {
        self.confirmed_at
    }

    /// From now on views are made with `guard`.
    pub(in crate::engine) fn reads_through(&mut self, guard: &Arc<MapGuard>) {
        self.retirement.reads_through(guard);
    }

    /// Whether a view reads through a map before number `map`.
    pub(in crate::engine) fn reads_earlier_map(&self, map: u64) -> bool {
        self.retirement.reads_earlier_map(map)
    }
}
