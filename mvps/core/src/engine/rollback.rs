//! Rollback of an open image by its server (protocol §5.5).
//!
//! Before anything is stopped the caller finds the version and opens its map, so that a version
//! that is gone or damaged disturbs nobody. Then the image's task ends all transactions, refuses
//! what is not committed, and holds answers and what comes next, while the publisher begins a new
//! tenure with the old version's map at an LSN above everything in the buffer. Once that counts,
//! everything buffered is dropped, who still waited for durability is told that it was taken back,
//! and the image goes on where that version was; connections stay.
//!
//! Invariants: no commit and no flush between the LSN that the rollback takes and its end; the
//! buffer store knows the new tenure as pending before it is published, and as confirmed before
//! anything is dropped, so a crash at any point leaves the image before or after, never between.
//!
//! Must never: acknowledge a commit that the rollback takes back after it was published; say that
//! one was taken back before that, because a crash would leave it there.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::buffer_index::GenerationIndex;
use super::checkpoint::ObjectNames;
use super::cleaning::Cleaning;
use super::error::EngineError;
use super::event::{CommitRefusal, Completion, Durability, Reply};
use super::image::Image;
use super::job::{Failed, JobOutcome, Publisher};
use super::map::Map;
use super::protocol::{
    CheckOutcome, ManifestError, ManifestStore, Outcome, TenureFinding, compose_rollback,
    is_retained, next_tenure, own_publication,
};
use super::task::{ImageTask, answer};
use super::view::MapGuard;
use crate::env::BufferError;
use crate::format::buffer_metadata::PENDING_TENURES_MAX;
use crate::format::manifest::Manifest;
use crate::ids::{Lsn, Tenure, Version};

/// What is said to those whose work a rollback takes back.
const ROLLED_BACK: EngineError = EngineError::Aborted {
    reason: "the image was rolled back",
};

const GONE: EngineError = EngineError::Invalid {
    reason: "the image does not keep that version",
};

/// A rollback that was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolledBack {
    /// The version that has the old content now.
    pub version: Version,
    /// The version before it: rolling back to that undoes this.
    pub undo_version: Version,
    /// The LSN of the rollback.
    pub lsn: Lsn,
}

/// What the image's task is asked.
pub struct RollbackRequest {
    /// The version to go back to.
    to: Box<Manifest>,
    /// Its map.
    map: Map,
    /// Where to reply.
    reply: Reply<RolledBack>,
}

/// What the publisher is asked.
pub(super) struct RollbackOrder {
    to: Box<Manifest>,
    map: Map,
    /// Above everything in the buffer.
    lsn: Lsn,
}

/// How the task stands to a rollback.
#[derive(Default)]
pub(super) enum Rollback {
    /// None was asked for.
    #[default]
    None,
    /// It waits for the publisher.
    Wanted(Box<RollbackRequest>),
    /// The publisher does it; this is told how it went.
    UnderWay(Reply<RolledBack>),
}

/// A flush that waits for the end of a rollback.
type HeldFlush = (Durability, Reply<(), CommitRefusal>);

/// What the task remembers about a rollback.
pub(super) struct RollbackDesk {
    stage: Rollback,
    held_flushes: Vec<HeldFlush>,
    /// Tells the publisher's job to abandon what it uploads.
    abandon: watch::Sender<bool>,
}

impl RollbackDesk {
    pub(super) fn new(abandon: watch::Sender<bool>) -> Self {
        Self {
            stage: Rollback::None,
            held_flushes: Vec::new(),
            abandon,
        }
    }

    /// Whether commits and checkpoints are stopped.
    pub(super) fn is_active(&self) -> bool {
        !matches!(self.stage, Rollback::None)
    }

    /// Whether the publisher is to begin.
    pub(super) fn is_wanted(&self) -> bool {
        matches!(self.stage, Rollback::Wanted(_))
    }

    /// Keeps a flush until the rollback ends.
    pub(super) fn hold(&mut self, durability: Durability, reply: Reply<(), CommitRefusal>) {
        self.held_flushes.push((durability, reply));
    }

    /// It does not happen any more.
    pub(super) fn fail(&mut self, error: &EngineError) {
        match std::mem::take(&mut self.stage) {
            Rollback::None => {}
            Rollback::Wanted(request) => answer(request.reply, Err(error.clone())),
            Rollback::UnderWay(reply) => answer(reply, Err(error.clone())),
        }
        for (_, reply) in self.held_flushes.drain(..) {
            answer(reply, Err(CommitRefusal::Failed(error.clone())));
        }
    }
}

/// Completes when the task wants what is being uploaded abandoned.
pub(super) async fn abandoned(order: &mut watch::Receiver<bool>) {
    if order.wait_for(|abandon| *abandon).await.is_err() {
        // The image is gone, and this with it.
        std::future::pending().await
    }
}

impl Image {
    /// Makes the image what it was in `version`, in a new version. Everything that was committed
    /// since goes, buffered or published; to be able to undo that, checkpoint first. Open
    /// transactions are aborted, connections stay. Waits while the object store is unavailable.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] if the image does not keep that version, [`EngineError::Corrupt`]
    /// or [`EngineError::Unreadable`] if it cannot be read: nothing happened then. Otherwise as for
    /// a checkpoint.
    pub async fn roll_back(&self, version: Version) -> Result<RolledBack, EngineError> {
        let host = &self.shared.host;
        let manifests = ManifestStore::new(host.store.clone());
        let newest = manifests.newest(self.id()).await.map_err(unreadable)?;
        if !newest.is_some_and(|newest| is_retained(&newest, version)) {
            return Err(GONE);
        }
        let to = match manifests.load(self.id(), version).await {
            Err(ManifestError::NoSuchVersion { .. }) => return Err(GONE),
            other => other.map_err(unreadable)?,
        };
        let map = match Map::open(&to, Arc::clone(&host.leaves)).await {
            Ok(map) => map,
            Err(error) => {
                // Its end may have been published since, and its objects deleted.
                let newest = manifests.newest(self.id()).await.map_err(unreadable)?;
                let retained = newest.is_some_and(|newest| is_retained(&newest, version));
                return Err(if retained { error.into() } else { GONE });
            }
        };
        let to = Box::new(to);
        self.ask(|reply| {
            let request = RollbackRequest { to, map, reply };
            super::event::Event::Rollback(Box::new(request))
        })
        .await
    }
}

fn unreadable(error: ManifestError) -> EngineError {
    EngineError::Unreadable {
        reason: error.to_string(),
    }
}

impl ImageTask {
    /// Stops everything for a rollback.
    pub(super) fn begin_rollback(&mut self, request: Box<RollbackRequest>) {
        if let Some(error) = self.refusal() {
            answer(request.reply, Err(error));
        } else if self.rollback.is_active() {
            let reason = "another rollback is under way";
            answer(request.reply, Err(EngineError::Invalid { reason }));
        } else {
            self.transactions.abort_all("the image was rolled back");
            self.refuse_stalled(&ROLLED_BACK);
            if crate::mutant::is("rollback takes back before it is published") {
                self.acknowledgements.fail(&ROLLED_BACK);
            }
            self.schedule.refuse_checkpoints(&ROLLED_BACK);
            self.rollback.stage = Rollback::Wanted(request);
            self.rollback.abandon.send_replace(true);
        }
    }

    /// What the publisher does next; it is idle and a rollback is wanted.
    pub(super) fn order_rollback(&mut self) -> RollbackOrder {
        let Rollback::Wanted(request) = std::mem::take(&mut self.rollback.stage) else {
            unreachable!("a rollback is wanted");
        };
        let RollbackRequest { to, map, reply } = *request;
        self.rollback.stage = Rollback::UnderWay(reply);
        self.rollback.abandon.send_replace(false);
        let lsn = self.lsn.next();
        RollbackOrder { to, map, lsn }
    }

    /// The publisher came back from a rollback.
    pub(super) async fn rollback_done(
        &mut self,
        outcome: Result<RolledBack, EngineError>,
        map: Map,
    ) {
        let stage = std::mem::take(&mut self.rollback.stage);
        let outcome = match outcome {
            Ok(done) => self.apply_rollback(done, map).await.map(|()| done),
            Err(error) => {
                self.release_held();
                Err(error)
            }
        };
        if let Rollback::UnderWay(reply) = stage {
            answer(reply, outcome);
        }
        for (durability, reply) in std::mem::take(&mut self.rollback.held_flushes) {
            match &self.failure {
                Some(error) => answer(reply, Err(CommitRefusal::Failed(error.clone()))),
                None => self.settle(reply, durability, self.lsn),
            }
        }
    }

    /// Drops what is buffered and goes on with the old version's map. If it cannot, what is buffered
    /// belongs to a history that is over: nothing more may be committed on top of it.
    async fn apply_rollback(&mut self, done: RolledBack, map: Map) -> Result<(), EngineError> {
        self.acknowledgements.fail(&ROLLED_BACK);
        let next = match self.next_generation().await {
            Ok(next) => next,
            Err(error) => {
                let error = EngineError::from(error);
                self.fail(error.clone());
                return Err(error);
            }
        };
        let active = std::mem::replace(&mut self.active, next);
        let mut gone: Vec<_> = self.sealed.drain(..).collect();
        gone.push(active);
        let publisher = self.publisher.as_mut().expect("it came back just now");
        self.tenure = publisher.tenure;
        self.size_bytes = publisher.newest.size_bytes;
        self.guard = Arc::new(MapGuard(self.guard.0 + 1));
        publisher.reads_through(&self.guard);
        self.map = map;
        self.lsn = done.lsn;
        self.published = (done.version, done.lsn);
        self.schedule.dirty_since = None;
        self.acknowledgements.synced = self.acknowledgements.synced.max(done.lsn);
        // Those that began meanwhile saw what was taken back.
        self.transactions.abort_all("the image was rolled back");
        self.publish_view();
        self.schedule.answer_checkpoints(done.version, done.lsn);
        for dropped in gone {
            self.drop_drained(dropped.generation);
        }
        tracing::warn!(
            image = %self.shared.id, version = %done.version, lsn = %done.lsn,
            "rolled back; the version before is {}", done.undo_version
        );
        Ok(())
    }

    async fn next_generation(&mut self) -> Result<GenerationIndex, BufferError> {
        self.buffer.seal().await?;
        let (generation, handle) = self.buffer.active().await?;
        Ok(GenerationIndex::new(generation, handle))
    }

    /// What a look at the newest manifest means while this server itself may have put another
    /// tenure there. `None` if it means what it says.
    pub(super) fn tenure_of_rollback(&self, finding: &TenureFinding) -> Option<CheckOutcome> {
        match finding {
            // The look was sent for the tenure before the rollback, which this one ended itself.
            TenureFinding::Deposed(newest) if newest.tenure == self.tenure => {
                Some(CheckOutcome::InOffice)
            }
            // Its publication will tell whether that is its own new tenure.
            TenureFinding::Deposed(_) if self.rollback.is_active() => {
                Some(CheckOutcome::Unreachable)
            }
            _ => None,
        }
    }
}

impl Publisher {
    /// Begins a new tenure with the map of an old version.
    pub(super) async fn roll_back(
        &mut self,
        order: RollbackOrder,
        report: &mpsc::Sender<Completion>,
    ) -> JobOutcome {
        let outcome = match self.publish_rollback(&order, report).await {
            Ok(done) => Ok(done),
            Err(NotRolledBack::Refused(error)) => Err(error),
            Err(NotRolledBack::Failed(failed)) => return failed.into(),
            Err(NotRolledBack::Buffer(error)) => return JobOutcome::BufferFailed(error),
        };
        JobOutcome::RolledBack {
            outcome,
            map: order.map,
        }
    }

    async fn publish_rollback(
        &mut self,
        order: &RollbackOrder,
        report: &mpsc::Sender<Completion>,
    ) -> Result<RolledBack, NotRolledBack> {
        loop {
            let entropy = &*self.host.environment.entropy;
            let tenure = next_tenure(Some(&self.newest), entropy);
            let at = self.host.environment.clock.wall();
            // As far as this server knows; if others published since, it composes again.
            let composed = compose_rollback(&self.newest, &order.to, tenure, order.lsn, at);
            let body = match composed {
                Ok(body) => body,
                Err(broken) if self.is_current().await? => {
                    tracing::error!(image = %self.newest.image, %broken, "not rolled back");
                    return Err(NotRolledBack::Refused(GONE));
                }
                Err(_) => continue,
            };
            self.note_pending(tenure, order.lsn).await?;
            match self.resolve(&body, report).await? {
                Outcome::Counted(newest) => {
                    let undo_version = Version(body.version.0 - 1);
                    self.take_office(newest, &order.map).await?;
                    return Ok(RolledBack {
                        version: self.newest.version,
                        undo_version,
                        lsn: order.lsn,
                    });
                }
                Outcome::Merge(newest) | Outcome::Fenced(newest) => self.move_to(newest)?,
            }
        }
    }

    /// Whether the newest manifest is the one that is known. It is known afterwards.
    async fn is_current(&mut self) -> Result<bool, NotRolledBack> {
        let newest = self.manifests.newest(&self.newest.image).await;
        let newest = newest.map_err(|error| NotRolledBack::Refused(unreadable(error)))?;
        let newest = newest.ok_or_else(|| {
            NotRolledBack::Failed(Failed::Fenced("the image's manifests are gone".to_owned()))
        })?;
        let current = newest.version == self.newest.version;
        self.move_to(newest)?;
        Ok(current)
    }

    /// Goes on with what others published within the tenure.
    fn move_to(&mut self, newest: Manifest) -> Result<(), NotRolledBack> {
        if newest.tenure != self.tenure {
            return Err(NotRolledBack::Failed(Failed::Fenced(format!(
                "tenure {} has the image since version {}",
                newest.tenure, newest.version
            ))));
        }
        self.newest = newest;
        Ok(())
    }

    async fn note_pending(&mut self, tenure: Tenure, lsn: Lsn) -> Result<(), NotRolledBack> {
        let pending = &mut self.metadata.pending;
        let surplus = (pending.len() + 1).saturating_sub(PENDING_TENURES_MAX);
        pending.drain(..surplus);
        pending.push(tenure);
        self.metadata.last_lsn = self.metadata.last_lsn.max(lsn);
        self.store_metadata().await
    }

    /// The tenure that `newest` begins is this server's.
    async fn take_office(&mut self, newest: Manifest, map: &Map) -> Result<(), NotRolledBack> {
        self.note_retired(&newest);
        self.tenure = newest.tenure;
        self.last_publication = newest.publication;
        let entropy = Arc::clone(&self.host.environment.entropy);
        self.names = ObjectNames::new(&newest, entropy);
        self.map = map.clone();
        // A round of cleaning was about another history.
        self.cleaning = Cleaning::new(self.cleaning.settings, &newest);
        self.metadata.confirmed = Some(newest.tenure);
        self.metadata.pending.clear();
        self.metadata.published = Some(own_publication(&newest));
        self.newest = newest;
        self.store_metadata().await
    }

    async fn store_metadata(&mut self) -> Result<(), NotRolledBack> {
        let stored = self.buffer.put_metadata(self.metadata.encode()).await;
        stored.map_err(|error| NotRolledBack::Buffer(error.into()))
    }
}

/// Why a rollback was not published.
enum NotRolledBack {
    /// It cannot be; the image goes on as it was.
    Refused(EngineError),
    Failed(Failed),
    Buffer(EngineError),
}

impl From<Failed> for NotRolledBack {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}
