//! What every part of a pass works with: the store, the policy, the limit, the progress.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::policy::{Budget, CollectionPolicy};
use super::report::{Observer, Progress};
use crate::env::{Clock, Entropy};
use crate::protocol::ManifestStore;
use crate::store::RetryingStore;

/// A pass that is under way.
pub(super) struct Pass<'a> {
    pub(super) store: &'a RetryingStore,
    pub(super) manifests: ManifestStore,
    pub(super) policy: CollectionPolicy,
    pub(super) clock: &'a dyn Clock,
    pub(super) entropy: &'a dyn Entropy,
    pub(super) budget: Budget,
    pub(super) progress: Mutex<Progress>,
    pub(super) limit_reached: AtomicBool,
    pub(super) observer: &'a dyn Observer,
}

impl Pass<'_> {
    /// Takes deletions out of the limit.
    pub(super) fn take(&self, wanted: usize) -> usize {
        let taken = self.budget.take(wanted);
        if taken < wanted {
            self.limit_reached.store(true, Ordering::Relaxed);
        }
        taken
    }

    pub(super) async fn wait(&self, duration: Duration) {
        self.clock.sleep(duration).await;
    }

    pub(super) fn limit_reached(&self) -> bool {
        self.limit_reached.load(Ordering::Relaxed)
    }

    pub(super) fn listed(&self, keys: usize) {
        self.advance(|progress| progress.listed += keys as u64);
    }

    pub(super) fn deleted(&self, keys: usize) {
        self.advance(|progress| progress.deleted += keys as u64);
    }

    pub(super) fn advance(&self, change: impl FnOnce(&mut Progress)) {
        let mut progress = self.progress.lock().expect("no holder panics");
        change(&mut progress);
        self.observer.progress(*progress);
    }
}
