//! Publications of the tenure, each repeated until its fate is known (protocol §3).
//!
//! Must never: publish another body before the fate of the last one is known.

use std::time::Duration;

use super::state::Publisher;
use crate::engine::error::EngineError;
use crate::format::manifest::Manifest;
use crate::ids::Lsn;
use crate::protocol::{
    Outcome, PublishedBy, Released, WriterPart, compose_publication, own_publication, publish,
};
use crate::store::Patience;

/// Pause between tries of a publication whose fate the store does not tell. The store's own
/// retries come before this.
const PUBLICATION_PAUSE: Duration = Duration::from_secs(5);

/// Why a publication did not come about.
pub(super) enum Failed {
    Fenced(String),
    Broken(String),
    /// Only a known-bad variant: the fate is unknown, and it takes that for a failure.
    Refused(String),
    Abandoned,
}

pub(super) fn fenced_by(newest: &Manifest) -> Failed {
    Failed::Fenced(format!(
        "tenure {} has the image since version {}",
        newest.tenure, newest.version
    ))
}

impl Publisher {
    /// Publishes what `own` makes of the newest manifest, merging with what others publish in
    /// between, until it counted or never will.
    pub(super) async fn publish(
        &mut self,
        own: impl Fn(&Manifest) -> WriterPart,
    ) -> Result<(), Failed> {
        loop {
            let mut part = own(&self.newest);
            self.last_publication = self.last_publication.next();
            part.publication = self.last_publication;
            let at = self.host.environment.clock.wall();
            let released = self.released();
            let body = compose_publication(&self.newest, self.tenure, part, &released, at)
                .map_err(|broken| Failed::Broken(broken.to_string()))?;
            match self.resolve(&body).await? {
                Outcome::Counted(newest) => {
                    self.note_retired(&newest);
                    self.newest = newest;
                    return Ok(());
                }
                Outcome::Merge(mut newest) => {
                    if crate::mutant::is("a merge forgets what others changed") {
                        newest.oldest_retained = self.newest.oldest_retained;
                    }
                    self.newest = newest;
                }
                Outcome::Fenced(newest) => {
                    return Err(fenced_by(&newest));
                }
            }
        }
    }

    /// Publishes `body`, the same bytes again and again, until its fate is known.
    pub(super) async fn resolve(&mut self, body: &Manifest) -> Result<Outcome, Failed> {
        loop {
            if self.is_orphaned() {
                return Err(Failed::Abandoned);
            }
            let asked_at = self.host.environment.clock.now();
            let hasty = crate::mutant::is("publication counter reused for another body");
            let manifests = if hasty {
                self.manifests.with_patience(Patience::Once)
            } else {
                self.manifests.clone()
            };
            match publish(&manifests, body, PublishedBy::Server).await {
                Ok(outcome) => {
                    self.confirmed_at = Some(asked_at);
                    return Ok(outcome);
                }
                Err(error) if hasty => {
                    self.last_publication = self.newest.publication;
                    return Err(Failed::Refused(error.to_string()));
                }
                Err(error) => {
                    tracing::error!(image = %body.image, %error, "publishing again");
                    self.host.environment.clock.sleep(PUBLICATION_PAUSE).await;
                }
            }
        }
    }

    /// Retired objects that no open view can read (protocol §4.6).
    fn released(&self) -> Released {
        Released::Objects(self.retirement.released(&self.newest.retired))
    }

    /// Remembers that what `newest` retired is still read through the current map.
    pub(super) fn note_retired(&mut self, newest: &Manifest) {
        self.retirement.note(&self.newest.retired, &newest.retired);
    }

    /// Notes a counted publication in the buffer store, before the generation that it covers is
    /// dropped.
    pub(super) async fn note_publication(&mut self, lsn: Lsn) -> Result<(), EngineError> {
        self.metadata.last_lsn = self.metadata.last_lsn.max(lsn);
        self.metadata.published = Some(own_publication(&self.newest));
        Ok(self.buffer.put_metadata(self.metadata.encode()).await?)
    }
}
