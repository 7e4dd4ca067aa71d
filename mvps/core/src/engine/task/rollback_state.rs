//! How the image's task stands to a rollback.

use tokio::sync::watch;

use crate::engine::error::EngineError;
use crate::engine::reply::{CommitRefusal, Durability, Reply, RolledBack, answer};
use crate::engine::request::RollbackRequest;

/// How the task stands to a rollback.
#[derive(Default)]
pub(super) enum RollbackStage {
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
pub(super) struct RollbackState {
    pub(super) stage: RollbackStage,
    pub(super) held_flushes: Vec<HeldFlush>,
    /// Tells the publisher's job to abandon what it uploads.
    pub(super) abandon: watch::Sender<bool>,
}

impl RollbackState {
    pub(super) fn new(abandon: watch::Sender<bool>) -> Self {
        Self {
            stage: RollbackStage::None,
            held_flushes: Vec::new(),
            abandon,
        }
    }

    /// Whether commits and checkpoints are stopped.
    pub(super) fn is_active(&self) -> bool {
        !matches!(self.stage, RollbackStage::None)
    }

    /// Whether the publisher is to begin.
    pub(super) fn is_wanted(&self) -> bool {
        matches!(self.stage, RollbackStage::Wanted(_))
    }

    /// Keeps a flush until the rollback ends.
    pub(super) fn hold(&mut self, durability: Durability, reply: Reply<(), CommitRefusal>) {
        self.held_flushes.push((durability, reply));
    }

    /// It does not happen any more.
    pub(super) fn fail(&mut self, error: &EngineError) {
        match std::mem::take(&mut self.stage) {
            RollbackStage::None => {}
            RollbackStage::Wanted(request) => answer(request.reply, Err(error.clone())),
            RollbackStage::UnderWay(reply) => answer(reply, Err(error.clone())),
        }
        for (_, reply) in self.held_flushes.drain(..) {
            answer(reply, Err(CommitRefusal::Failed(error.clone())));
        }
    }
}
