//! A stand-in for the collector, as simple as the protocol allows (§4.1–4.3): expires versions by
//! publication, then deletes what nothing reaches. It exists so that the engine's part is tested
//! by real deletions: retired lists, watermarks, the re-check after a create.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use madsim::time::sleep;
use mvps_core::engine::protocol::{
    ManifestStore, OthersPart, Outcome, Publisher, compose_by_other, publish,
};
use mvps_core::env::EntropyExt;
use mvps_core::format::manifest::Manifest;
use mvps_core::format::object_name::{ObjectName, manifest_key, objects_prefix};
use mvps_core::ids::{PublicationId, Version};
use mvps_core::store::{Patience, RetryingStore};

use super::server::image_id;
use crate::draws::Draws;
use crate::world::machine::{Process, Site};

/// Objects listed at once.
const LIST_LIMIT: usize = 10_000;

/// See the module's text.
pub struct Janitor {
    site: Arc<Site>,
    process: Process,
    draws: Draws,
    store: RetryingStore,
    manifests: ManifestStore,
}

impl Janitor {
    /// A janitor who works on `process`.
    #[must_use]
    pub fn new(site: &Arc<Site>, process: Process) -> Self {
        let environment = &process.environment;
        let store = RetryingStore::new(
            Arc::clone(&environment.objects),
            Arc::clone(&environment.clock),
            Arc::clone(&environment.entropy),
        )
        .with_patience(Patience::For(Duration::from_secs(120)));
        Self {
            site: Arc::clone(site),
            draws: Draws::new(site.plan.seed, &format!("janitor {}", process.name)),
            manifests: ManifestStore::new(store.clone()),
            process,
            store,
        }
    }

    /// Works for ever.
    pub async fn run(self) {
        loop {
            let pause = self.site.plan.collector_pause_max;
            sleep(self.draws.duration(Duration::from_millis(50), pause)).await;
            match self.round().await {
                Some(deleted) if deleted > 0 => {
                    self.site.journal.mark("the stand-in collector deleted");
                    self.note(format_args!("deleted {deleted}"));
                }
                Some(_) => {}
                None => self.note(format_args!("gave up a round")),
            }
        }
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.site.journal.note(&self.process.name, what);
    }

    /// Expires and deletes; `None` if something is in the way.
    async fn round(&self) -> Option<usize> {
        let newest = self.manifests.newest(&image_id()).await.ok()??;
        let kept = self.draws.below(4);
        let oldest = Version(newest.version.0.saturating_sub(kept).max(1));
        let newest = if oldest > newest.oldest_retained {
            self.expire(&newest, oldest).await?
        } else {
            newest
        };
        // Anything may happen between looking and deleting.
        if self.draws.chance(300) {
            let pause = self
                .draws
                .duration(Duration::from_millis(1), Duration::from_hours(1));
            if pause > Duration::from_mins(1) {
                let journal = &self.site.journal;
                journal.mark("a collector paused between listing and deleting");
            }
            sleep(pause).await;
        }
        self.collect(&newest).await
    }

    async fn expire(&self, base: &Manifest, oldest: Version) -> Option<Manifest> {
        let environment = &self.process.environment;
        let id = PublicationId(environment.entropy.u128());
        let part = OthersPart {
            oldest_retained: oldest,
            ..OthersPart::of(base)
        };
        let body = compose_by_other(base, id, part, environment.clock.wall()).ok()?;
        match publish(&self.manifests, &body, Publisher::Other(id))
            .await
            .ok()?
        {
            Outcome::Counted(newest) => Some(newest),
            Outcome::Merge(_) | Outcome::Fenced(_) => None,
        }
    }

    async fn collect(&self, newest: &Manifest) -> Option<usize> {
        let image = image_id();
        let mut reached: BTreeSet<ObjectName> = references(newest);
        let versions = self.manifests.list_versions(&image).await.ok()?;
        let mut garbage = Vec::new();
        for version in versions {
            if version < newest.oldest_retained {
                garbage.push(manifest_key(&image, version));
            } else if version < newest.version {
                reached.extend(references(
                    &self.manifests.load(&image, version).await.ok()?,
                ));
            }
        }
        let prefix = objects_prefix(&image);
        let objects = self.store.list(&prefix, None, LIST_LIMIT).await.ok()?;
        for entry in objects {
            let name = ObjectName::parse(&entry.key).ok()?;
            if is_settled(&name, newest) && !reached.contains(&name) {
                garbage.push(entry.key);
            }
        }
        for found in self.store.list_uploads(&prefix).await.ok()? {
            let name = ObjectName::parse(&found.key).ok()?;
            if is_settled(&name, newest) && !reached.contains(&name) {
                let outcome = self.store.abort_upload(&found.key, &found.upload).await;
                outcome.ok()?;
            }
        }
        if !garbage.is_empty() {
            let outcomes = self.store.delete(&garbage).await;
            let failed = outcomes.iter().any(Result::is_err);
            if failed {
                return None;
            }
        }
        Some(garbage.len())
    }
}

fn references(manifest: &Manifest) -> BTreeSet<ObjectName> {
    let segments = manifest.segments.iter().map(|it| &it.name);
    let maps = manifest.maps.iter().map(|it| &it.name);
    let retired = manifest.retired.iter().map(|it| &it.name);
    segments.chain(maps).chain(retired).cloned().collect()
}

/// Whether nobody will refer to it who has not done so yet.
fn is_settled(name: &ObjectName, newest: &Manifest) -> bool {
    name.epoch < newest.tenure.epoch
        || name.epoch == newest.tenure.epoch && name.sequence < newest.watermark
}
