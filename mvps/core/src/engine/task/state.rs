//! What the image's task holds, and what every part of it does with that.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::completion::Completion;
use super::plans::Schedule;
use super::rollback_state::RollbackState;
use super::room::Room;
use super::stalled::Stalled;
use super::waiting::Acknowledgements;
use crate::engine::buffer::GenerationIndex;
use crate::engine::buffer_budget::BufferLimit;
use crate::engine::config::EngineConfig;
use crate::engine::error::EngineError;
use crate::engine::handle::Shared;
use crate::engine::publisher::Publisher;
use crate::engine::read::{Map, MapGuard, View};
use crate::engine::reply::Reply;
use crate::engine::request::Event;
use crate::engine::transaction::Transactions;
use crate::env::{BufferStore, Moment};
use crate::ids::{Lsn, Tenure, Version};
use crate::protocol::{ManifestStore, TenureCheck};

/// Background reports that may wait; there are at most a handful of background tasks.
const COMPLETIONS_MAX: usize = 16;

/// An open image's mutable state. Each field has this one owner.
pub(in crate::engine) struct ImageTask {
    pub(super) shared: Arc<Shared>,
    pub(super) tenure: Tenure,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) completions: mpsc::Receiver<Completion>,
    /// For background tasks.
    pub(super) report: mpsc::Sender<Completion>,
    pub(super) views: watch::Sender<Arc<View>>,
    pub(super) buffer: Arc<dyn BufferStore>,
    /// Takes the next commits.
    pub(super) active: GenerationIndex,
    /// Wait for their checkpoints, oldest first.
    pub(super) sealed: VecDeque<GenerationIndex>,
    /// The last commit.
    pub(super) lsn: Lsn,
    /// The newest published version and the last commit in it.
    pub(super) published: (Version, Lsn),
    pub(super) size_bytes: u64,
    pub(super) map: Map,
    pub(super) guard: Arc<MapGuard>,
    pub(super) transactions: Transactions,
    /// Commits and locks that wait for the lock or for room, in order.
    pub(super) stalled: VecDeque<Stalled>,
    /// Bytes that were added to these since the abandoned ones were forgotten.
    pub(super) stalled_bytes: usize,
    /// Who waits for room on the disk.
    pub(super) room: Room,
    pub(super) acknowledgements: Acknowledgements,
    pub(super) schedule: Schedule,
    pub(super) rollback: RollbackState,
    /// Here while no job is under way.
    pub(super) publisher: Option<Box<Publisher>>,
    /// Why nothing is written any more.
    pub(super) failure: Option<EngineError>,
    /// Replies to those who asked to close.
    pub(super) closing: Option<Vec<Reply<()>>>,
    /// How closing ended; the task ends then.
    pub(super) closed: Option<Result<(), EngineError>>,
}

/// What a task begins with.
pub(in crate::engine) struct TaskParts {
    pub(in crate::engine) shared: Arc<Shared>,
    pub(in crate::engine) tenure: Tenure,
    pub(in crate::engine) tenure_check: TenureCheck,
    /// The manifests, through a store that soon gives up: for tenure checks.
    pub(in crate::engine) impatient_manifests: ManifestStore,
    pub(in crate::engine) events: mpsc::Receiver<Event>,
    pub(in crate::engine) views: watch::Sender<Arc<View>>,
    pub(in crate::engine) buffer: Arc<dyn BufferStore>,
    pub(in crate::engine) active: GenerationIndex,
    pub(in crate::engine) sealed: VecDeque<GenerationIndex>,
    pub(in crate::engine) lsn: Lsn,
    pub(in crate::engine) published: (Version, Lsn),
    pub(in crate::engine) publisher: Publisher,
    /// Tells the publisher's job to abandon what it uploads.
    pub(in crate::engine) abandon: watch::Sender<bool>,
}

impl ImageTask {
    pub(in crate::engine) fn new(parts: TaskParts) -> Self {
        let (report, completions) = mpsc::channel(COMPLETIONS_MAX);
        let environment = &parts.shared.environment;
        let mut schedule = Schedule::new(
            &parts.shared.config,
            &*environment.entropy,
            parts.impatient_manifests,
        );
        schedule.cleaning.space = parts.publisher.space();
        let forgets = crate::mutant::is("recovered commits wait for others");
        schedule.dirty_since =
            (!parts.active.is_empty() && !forgets).then(|| environment.clock.now());
        let view = Arc::clone(&parts.views.borrow());
        let transactions = Transactions::new(parts.shared.config.limits.conflict_ranges_max);
        Self {
            shared: parts.shared,
            tenure: parts.tenure,
            events: parts.events,
            completions,
            report,
            views: parts.views,
            buffer: parts.buffer,
            active: parts.active,
            sealed: parts.sealed,
            lsn: parts.lsn,
            published: parts.published,
            size_bytes: view.size_bytes,
            map: view.map.clone(),
            guard: Arc::clone(&view.guard),
            transactions,
            stalled: VecDeque::new(),
            stalled_bytes: 0,
            room: Room::default(),
            acknowledgements: Acknowledgements::new(parts.tenure_check),
            schedule,
            rollback: RollbackState::new(parts.abandon),
            publisher: Some(Box::new(parts.publisher)),
            failure: None,
            closing: None,
            closed: None,
        }
    }

    pub(super) fn config(&self) -> &EngineConfig {
        &self.shared.config
    }

    pub(super) fn now(&self) -> Moment {
        self.shared.environment.clock.now()
    }

    /// Why nothing new is accepted, if so.
    pub(super) fn refusal(&self) -> Option<EngineError> {
        let late = crate::mutant::is("write accepted after an attempted clean close")
            && self.publisher.is_none();
        let closing = self.closing.as_ref().filter(|_| !late);
        let closing = closing.map(|_| EngineError::Closed);
        self.failure.clone().or(closing)
    }

    /// Takes no more writes, and tells everybody who waits.
    pub(super) fn fail(&mut self, error: EngineError) {
        if self.failure.is_some() {
            return;
        }
        tracing::error!(image = %self.shared.id, %error, "the image takes no more writes");
        self.failure = Some(error.clone());
        self.shared.buffer_share.index_memory().leave();
        self.transactions.abort_all("the image failed");
        self.refuse_stalled(&error);
        self.acknowledgements.fail(&error);
        self.schedule.fail(&error);
        self.rollback.fail(&error);
    }

    /// The view of everything that is committed.
    pub(super) fn view_now(&self) -> View {
        let mut generations = Vec::with_capacity(1 + self.sealed.len());
        generations.push(self.active.clone());
        generations.extend(self.sealed.iter().rev().cloned());
        let frames = Arc::clone(&self.views.borrow().frames);
        View {
            lsn: self.lsn,
            size_bytes: self.size_bytes,
            page_size: self.shared.page_size,
            generations,
            map: self.map.clone(),
            guard: Arc::clone(&self.guard),
            frames,
        }
    }

    pub(super) fn publish_view(&mut self) {
        let view = Arc::new(self.view_now());
        self.views.send_replace(view);
        self.gauge();
    }

    /// Bytes that count towards the buffer's limit: what is on the disk, or is about to be.
    pub(super) fn buffered_bytes(&self) -> u64 {
        let records = self.active.bytes + self.sealed.iter().map(|one| one.bytes).sum::<u64>();
        records.max(self.buffer.usage().disk_bytes)
    }

    /// Whether there is no room once `more` bytes were committed.
    pub(super) fn is_full(&self, more: usize) -> bool {
        self.full_by(more).is_some()
    }

    /// The limit that leaves no room for `more` bytes, if one does.
    pub(super) fn full_by(&self, more: usize) -> Option<BufferLimit> {
        self.gauge();
        self.shared.buffer_share.full_by(more as u64)
    }

    /// Whether a good part of the memory that the image's indexes take is that of dropped generations,
    /// which only views of the past still read.
    pub(super) fn past_fills_memory(&self) -> bool {
        let current = self
            .sealed
            .iter()
            .map(GenerationIndex::memory_bytes)
            .sum::<u64>()
            + self.active.memory_bytes();
        let all = self.shared.buffer_share.index_memory().bytes();
        all.saturating_sub(current) > all / 4
    }

    pub(super) fn gauge(&self) {
        self.shared.buffer_share.set(self.buffered_bytes());
    }

    pub(super) fn refuse_stalled(&mut self, error: &EngineError) {
        for request in std::mem::take(&mut self.stalled) {
            request.refuse(error.clone());
        }
    }
}
