//! The publisher's part of a rollback in place (protocol §5.5): a new tenure with the map of an old
//! version.
//!
//! Invariant: the buffer store knows the new tenure as pending before it is published, and as
//! confirmed before anything is dropped.

use std::sync::Arc;

use tokio::sync::watch;

use super::job::{JobOutcome, RollbackOrder};
use super::names::ObjectNames;
use super::publication::Failed;
use super::state::Publisher;
use crate::engine::error::{EngineError, VERSION_GONE};
use crate::engine::read::Map;
use crate::engine::reply::RolledBack;
use crate::format::buffer_metadata::PENDING_TENURES_MAX;
use crate::format::manifest::Manifest;
use crate::ids::{Lsn, Tenure, Version};
use crate::protocol::{Outcome, compose_rollback, next_tenure, own_publication};

/// Completes when the task wants what is being uploaded abandoned, or is gone: nothing is published
/// any more then.
pub(super) async fn abandoned(order: &mut watch::Receiver<bool>) {
    // An error says that the task is gone.
    let _ = order.wait_for(|abandon| *abandon).await;
}

impl Publisher {
    /// Begins a new tenure with the map of an old version.
    pub(super) async fn roll_back(&mut self, order: RollbackOrder) -> JobOutcome {
        let outcome = match self.publish_rollback(&order).await {
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
                    return Err(NotRolledBack::Refused(VERSION_GONE));
                }
                Err(_) => continue,
            };
            self.note_pending(tenure, order.lsn).await?;
            match self.resolve(&body).await? {
                Outcome::Counted(newest) => {
                    let undo_version = Version(body.version.0 - 1);
                    self.become_active(newest, &order.map).await?;
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
        let newest =
            newest.map_err(|error| NotRolledBack::Refused(EngineError::unreadable(error)))?;
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
    async fn become_active(&mut self, newest: Manifest, map: &Map) -> Result<(), NotRolledBack> {
        self.note_retired(&newest);
        self.tenure = newest.tenure;
        self.last_publication = newest.publication;
        let entropy = Arc::clone(&self.host.environment.entropy);
        self.names = ObjectNames::new(&newest, entropy);
        self.map = map.clone();
        // A round of cleaning was about another history.
        self.cleaning = self.cleaning.begin_again(&newest);
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
