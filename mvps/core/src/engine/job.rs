//! The publisher: whoever holds it may upload and publish for the tenure.
//!
//! The image's task hands it to one background task at a time and gets it back with the outcome, so
//! that everything which publications need to be ordered by (the counter, the newest manifest, the
//! numbers of objects, the metadata of the buffer store) has one owner. A checkpoint: write the
//! generation's pages as segments, fold the map if it is time, sync the buffer store, publish, note
//! it in the buffer store. Only then is the generation dropped, by the image's task (protocol §3.5).
//!
//! Must never: publish another body before the fate of the last one is known; delete an object
//! (protocol §3.7); use an object name twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::buffer_index::GenerationIndex;
use super::checkpoint::{CheckpointError, ObjectNames, Written, write_checkpoint};
use super::cleaning::{Cleaning, Hurry};
use super::error::EngineError;
use super::event::Completion;
use super::frame_reader::FrameReader;
use super::host::Host;
use super::map::Map;
use super::protocol::{
    ManifestStore, Outcome, Publisher as PublishedBy, Released, TenureFinding, WriterPart,
    check_tenure, compose_publication, own_publication, publish,
};
use super::rollback::{RollbackOrder, RolledBack, abandoned};
use super::view::MapGuard;
use crate::encryption::ImageKeys;
use crate::env::{BufferStore, Moment};
use crate::format::buffer_metadata::BufferMetadata;
use crate::format::manifest::{Manifest, Office};
use crate::format::object_name::ObjectName;
use crate::ids::{Lsn, PublicationCounter, Tenure, Version};
use crate::store::Patience;

/// Pause between tries of a publication whose fate the store does not tell. The store's own
/// retries come before this.
const PUBLICATION_PAUSE: Duration = Duration::from_secs(5);

/// What the publisher is asked to do.
pub(super) enum Job {
    /// Carry a sealed generation to object storage.
    Checkpoint(GenerationIndex),
    /// Copy some live pages out of segments that are mostly dead.
    Clean(Hurry),
    /// Publish nothing new, so that what was retired leaves the list.
    Release,
    /// Publish a larger size.
    Grow(u64),
    /// Begin a new tenure with an earlier version's map.
    RollBack(Box<RollbackOrder>),
    /// Publish that nobody is in office.
    Close,
}

/// How it went.
pub(super) enum JobOutcome {
    /// The generation is published; read it through this map from now on.
    Checkpointed { map: Map },
    /// Read through this map from now on, if there is another one: it has the same content.
    Cleaned { map: Option<Map> },
    /// The image has this size.
    Grown { size_bytes: u64 },
    /// A rollback was published, or it could not be and the image goes on as it was.
    RolledBack {
        outcome: Result<RolledBack, EngineError>,
        map: Map,
    },
    /// The task wanted it abandoned; nothing was published.
    Abandoned,
    /// The image is clean.
    Closed,
    /// Another writer has the image.
    Fenced { reason: String },
    /// The object store refuses the work in a way that waiting does not cure; nothing was
    /// published.
    Refused { reason: String },
    /// The buffer store failed, or what it or the map says is damaged.
    BufferFailed(EngineError),
}

/// A finished job, and the publisher for the next one.
pub struct JobDone {
    pub(super) publisher: Box<Publisher>,
    pub(super) outcome: JobOutcome,
}

/// See the module's text.
pub(super) struct Publisher {
    pub(super) host: Host,
    pub(super) compression: Option<i32>,
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
    /// Guards of all maps that a view may still read through, by number.
    pub(super) guards: BTreeMap<u64, Weak<MapGuard>>,
    /// Through which map a retired object was last reachable. Objects that an earlier process
    /// retired are not here: no view of this one reads them.
    pub(super) retired_through: BTreeMap<ObjectName, u64>,
    /// Whether the task wants a checkpoint's uploads abandoned.
    pub(super) abandon: watch::Receiver<bool>,
    /// Just before the listing that last showed the tenure in office.
    pub(super) confirmed_at: Option<Moment>,
}

/// Why a publication did not come about.
pub(super) enum Failed {
    Fenced(String),
    Broken(String),
    /// Only a known-bad variant: the fate is unknown, and it takes that for a failure.
    Refused(String),
    Abandoned,
}

impl Publisher {
    pub(super) fn version(&self) -> Version {
        self.newest.version
    }

    pub(super) fn confirmed_at(&self) -> Option<Moment> {
        self.confirmed_at
    }

    /// From now on views are made with `guard`.
    pub(super) fn reads_through(&mut self, guard: &Arc<MapGuard>) {
        self.guards.insert(guard.0, Arc::downgrade(guard));
        self.guards.retain(|_, guard| guard.strong_count() > 0);
    }

    /// Whether a view reads through a map before number `map`.
    pub(super) fn reads_earlier_map(&self, map: u64) -> bool {
        self.guards
            .range(..map)
            .any(|(_, guard)| guard.strong_count() > 0)
    }

    /// Does `job`. `report` is only asked whether the image's task is still there: without it
    /// nothing is published any more.
    pub(super) async fn run(
        mut self: Box<Self>,
        job: Job,
        report: &mpsc::Sender<Completion>,
    ) -> JobDone {
        let outcome = match job {
            Job::Checkpoint(generation) => {
                let outcome = self.checkpoint(generation, report).await;
                self.explained(outcome).await
            }
            Job::Clean(hurry) => {
                let outcome = self.clean(&hurry, report).await;
                self.explained(outcome).await
            }
            Job::Release => self.release(report).await,
            Job::Grow(size_bytes) => self.grow(size_bytes, report).await,
            Job::RollBack(order) => self.roll_back(*order, report).await,
            Job::Close => self.close(report).await,
        };
        JobDone {
            publisher: self,
            outcome,
        }
    }

    /// Work that the store refuses may be that of a deposed server, whose objects the one in office
    /// has let go of.
    async fn explained(&self, outcome: JobOutcome) -> JobOutcome {
        let JobOutcome::Refused { .. } = &outcome else {
            return outcome;
        };
        let (image, version) = (&self.newest.image, self.newest.version);
        match check_tenure(&self.manifests, image, self.tenure, version).await {
            TenureFinding::Deposed(newest) => fenced_by(&newest).into(),
            _ => outcome,
        }
    }

    async fn checkpoint(
        &mut self,
        generation: GenerationIndex,
        report: &mpsc::Sender<Completion>,
    ) -> JobOutcome {
        let lsn = generation.last_lsn;
        if crate::mutant::is("generation dropped before publish") {
            let _ = self.buffer.drop_generation(generation.generation).await;
        }
        // What was uploaded is never picked up, and an upload that lands later is garbage.
        let mut abandon = self.abandon.clone();
        let write = async {
            tokio::select! {
                biased;
                () = abandoned(&mut abandon) => None,
                written = write_checkpoint(self, &generation) => Some(written),
            }
        };
        // The sealed generation needs no more than its sync; that goes on beside the upload.
        let (written, synced) =
            futures_util::future::join(write, self.sync_before_publication()).await;
        let Some(written) = written else {
            return JobOutcome::Abandoned;
        };
        let written = match written {
            Ok(written) => written,
            Err(CheckpointError::Engine(error)) => return JobOutcome::BufferFailed(error),
            Err(CheckpointError::Store(error)) => {
                return JobOutcome::Refused {
                    reason: error.to_string(),
                };
            }
        };
        if let Err(error) = synced {
            return JobOutcome::BufferFailed(error);
        }
        let Written {
            map,
            part,
            folded,
            segment_bytes,
        } = written;
        let own = |base: &Manifest| WriterPart {
            size_bytes: base.size_bytes,
            lsn,
            ..part.clone()
        };
        if let Err(failed) = self.publish(own, report).await {
            return failed.into();
        }
        if let Err(error) = self.note_publication(lsn).await {
            return JobOutcome::BufferFailed(error);
        }
        tracing::info!(
            image = %self.newest.image, version = %self.newest.version, %lsn,
            "published a checkpoint"
        );
        self.map = map.clone();
        self.cleaning.earn(segment_bytes);
        self.published_map(folded);
        JobOutcome::Checkpointed { map }
    }

    /// Nothing may be published that a power cut could take back (protocol §3.5).
    async fn sync_before_publication(&self) -> Result<(), EngineError> {
        if crate::mutant::is("publish before sync") {
            return Ok(());
        }
        Ok(self.buffer.sync().await?)
    }

    async fn grow(&mut self, size_bytes: u64, report: &mpsc::Sender<Completion>) -> JobOutcome {
        let own = |base: &Manifest| WriterPart {
            size_bytes: size_bytes.max(base.size_bytes),
            ..WriterPart::unchanged(base)
        };
        match self.publish(own, report).await {
            Ok(()) => JobOutcome::Grown {
                size_bytes: self.newest.size_bytes,
            },
            Err(failed) => failed.into(),
        }
    }

    async fn close(&mut self, report: &mpsc::Sender<Completion>) -> JobOutcome {
        let own = |base: &Manifest| WriterPart {
            office: Office::Clean,
            ..WriterPart::unchanged(base)
        };
        if let Err(failed) = self.publish(own, report).await {
            return failed.into();
        }
        match self.note_publication(self.newest.lsn).await {
            Ok(()) => JobOutcome::Closed,
            Err(error) => JobOutcome::BufferFailed(error),
        }
    }

    /// Publishes what `own` makes of the newest manifest, merging with what others publish in
    /// between, until it counted or never will.
    pub(super) async fn publish(
        &mut self,
        own: impl Fn(&Manifest) -> WriterPart,
        report: &mpsc::Sender<Completion>,
    ) -> Result<(), Failed> {
        loop {
            let mut part = own(&self.newest);
            self.last_publication = self.last_publication.next();
            part.publication = self.last_publication;
            let at = self.host.environment.clock.wall();
            let released = self.released();
            let body = compose_publication(&self.newest, self.tenure, part, &released, at)
                .map_err(|broken| Failed::Broken(broken.to_string()))?;
            match self.resolve(&body, report).await? {
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
    pub(super) async fn resolve(
        &mut self,
        body: &Manifest,
        report: &mpsc::Sender<Completion>,
    ) -> Result<Outcome, Failed> {
        loop {
            if report.is_closed() {
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
        let open = self
            .guards
            .iter()
            .filter(|(_, guard)| guard.strong_count() > 0);
        let oldest_open = open.map(|(number, _)| *number).min().unwrap_or(u64::MAX);
        let reachable = |name: &ObjectName| {
            let through = self.retired_through.get(name);
            through.is_some_and(|through| *through >= oldest_open)
                && !crate::mutant::is("retired objects forgotten")
        };
        let retired = self.newest.retired.iter().map(|retired| &retired.name);
        let released: BTreeSet<_> = retired.filter(|name| !reachable(name)).cloned().collect();
        Released::Objects(released)
    }

    /// Remembers that what `newest` retired is still read through the current map.
    pub(super) fn note_retired(&mut self, newest: &Manifest) {
        let current = self.guards.keys().next_back().copied().unwrap_or(0);
        let names: BTreeSet<_> = newest.retired.iter().map(|retired| &retired.name).collect();
        self.retired_through.retain(|name, _| names.contains(name));
        let before: BTreeSet<_> = self
            .newest
            .retired
            .iter()
            .map(|retired| &retired.name)
            .collect();
        for name in names.difference(&before) {
            self.retired_through.insert((*name).clone(), current);
        }
    }

    /// Notes a counted publication in the buffer store, before the generation that it covers is
    /// dropped.
    pub(super) async fn note_publication(&mut self, lsn: Lsn) -> Result<(), EngineError> {
        self.metadata.last_lsn = self.metadata.last_lsn.max(lsn);
        self.metadata.published = Some(own_publication(&self.newest));
        Ok(self.buffer.put_metadata(self.metadata.encode()).await?)
    }
}

fn fenced_by(newest: &Manifest) -> Failed {
    Failed::Fenced(format!(
        "tenure {} has the image since version {}",
        newest.tenure, newest.version
    ))
}

impl From<Failed> for JobOutcome {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Fenced(reason) => Self::Fenced { reason },
            Failed::Broken(reason) => Self::BufferFailed(EngineError::Poisoned { reason }),
            Failed::Refused(reason) => Self::Refused { reason },
            Failed::Abandoned => Self::BufferFailed(EngineError::Closed),
        }
    }
}
