//! Collectors at work: real passes of `mvps_core::collector` over the whole store, one after the
//! other, on machines of their own. A pass is killed at any request, frozen for an hour, doubled,
//! pauses between deciding and deleting, or cannot read some of the manifests. What it deletes is
//! judged as it lands (`model/deletion.rs`).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join;
use mvps_core::collector::expiry::ExpiryPolicy;
use mvps_core::collector::{CollectionPolicy, CollectionReport, Collector, Silent};
use mvps_core::env::{ObjectStore, StoreError};
use mvps_core::store::{Patience, RetryingStore};

use super::one_shot::{Marks, rest, run_one_shot};
use crate::environment::machine::{Machine, Process, Site};
use crate::environment::pausing_store::PausingStore;
use crate::environment::request::Request;
use crate::environment::store_frontend::StoreFrontend;
use crate::environment::unreadable_objects::UnreadableObjects;
use crate::random::RandomStream;

/// How long a collector asks a store that does not answer.
const PATIENCE: Patience = Patience::For(Duration::from_secs(120));

/// Passes after which a collector has pauses of its own.
const BUSY_PASSES: u64 = 100;

/// Passes of a thousand that cannot read some manifests.
const PASSES_WITH_UNREADABLE: u64 = 200;

/// How many manifests of a thousand such a pass cannot read.
const UNREADABLE_MANIFESTS: u64 = 60;

/// One collector's machine, and who starts passes on it.
pub struct Collecting {
    site: Arc<Site>,
    machine: Machine,
    random: RandomStream,
}

impl Collecting {
    /// A collector on a machine called `name`.
    #[must_use]
    pub fn new(site: &Arc<Site>, name: &str) -> Self {
        Self {
            site: Arc::clone(site),
            machine: Machine::new(name, site),
            random: RandomStream::new(site.plan.seed, name),
        }
    }

    /// Starts passes for ever.
    pub async fn run(self) {
        for done in 0.. {
            let pause = self.site.plan.collector_pause_max;
            rest(&self.random, done, BUSY_PASSES, pause).await;
            self.pass().await;
        }
    }

    /// One pass, and what happens to it.
    async fn pass(&self) {
        let marks = Marks {
            killed: "a collector was killed",
            frozen: "a collector was frozen",
        };
        let work = |process| Pass::new(&self.site, &process).run();
        let journal = &self.site.journal;
        run_one_shot(journal, &self.machine, &self.random, &marks, work).await;
    }
}

/// A pass under way, or two at once.
struct Pass {
    site: Arc<Site>,
    process: Process,
    random: Arc<RandomStream>,
}

impl Pass {
    fn new(site: &Arc<Site>, process: &Process) -> Self {
        Self {
            site: Arc::clone(site),
            process: process.clone(),
            random: Arc::new(RandomStream::new(
                site.plan.seed,
                &format!("pass {}", process.name),
            )),
        }
    }

    async fn run(self) {
        let collector = self.collector(self.policy(), true);
        if self.random.chance(200) {
            let second = self.collector(self.policy(), true);
            let journal = &self.site.journal;
            journal.fault(&self.process.name, "operator: two collectors");
            journal.mark("two passes ran at once");
            let (one, other) = join(collector.collect(None), second.collect(None)).await;
            self.tell(one);
            self.tell(other);
        } else {
            self.tell(collector.collect(None).await);
        }
    }

    fn policy(&self) -> CollectionPolicy {
        let random = &self.random;
        let minutes = |most| Duration::from_secs(60 * random.below(most));
        let inactive = match random.chance(700) {
            true => Duration::ZERO,
            false => minutes(60),
        };
        CollectionPolicy {
            expiry: ExpiryPolicy {
                inactive,
                states_min: u32::try_from(random.within(1..5)).expect("small"),
            },
            dry_run: random.chance(50),
            deletes_max: random.chance(100).then(|| random.below(5)),
            abandon_after: minutes(2),
        }
    }

    fn collector(&self, policy: CollectionPolicy, is_hindered: bool) -> Collector {
        for model in self.site.images.models() {
            model.collects_by(&self.process.name, policy.expiry);
        }
        let environment = &self.process.environment;
        let objects: Arc<dyn ObjectStore> = match is_hindered {
            true => self.hindered(),
            false => Arc::clone(&environment.objects),
        };
        let (clock, entropy) = (&environment.clock, &environment.entropy);
        let store = RetryingStore::new(objects, Arc::clone(clock), Arc::clone(entropy));
        Collector::new(
            store.with_patience(PATIENCE),
            Arc::clone(clock),
            Arc::clone(entropy),
            policy,
            Arc::new(Silent),
        )
    }

    /// The store as a pass sees it that pauses, and cannot read some manifests.
    fn hindered(&self) -> Arc<dyn ObjectStore> {
        let journal = &self.site.journal;
        let mut objects: Arc<dyn ObjectStore> = Arc::new(StoreFrontend(PausingStore {
            journal: journal.clone(),
            objects: Arc::clone(&self.process.environment.objects),
            random: Arc::clone(&self.random),
            pauses_before: |request| {
                matches!(request, Request::Delete(_) | Request::AbortUpload(..))
            },
            chance: 300,
            mark: "a paused collector deleted late",
        }));
        if self.random.chance(PASSES_WITH_UNREADABLE) {
            objects = Arc::new(StoreFrontend(UnreadableObjects {
                journal: journal.clone(),
                client: self.process.name.clone(),
                objects,
                random: Arc::clone(&self.random),
                chance: UNREADABLE_MANIFESTS,
                known: Mutex::default(),
            }));
        }
        objects
    }

    fn tell(&self, outcome: Result<CollectionReport, StoreError>) {
        let journal = &self.site.journal;
        let name = &self.process.name;
        let report = match outcome {
            Ok(report) => report,
            Err(error) => return journal.note(name, format_args!("no pass: {error}")),
        };
        if report.deleted() > 0 && !report.dry_run {
            journal.mark("the collector deleted");
        }
        if !report.all_went_well() {
            journal.mark("a collection failed in part");
        }
        journal.note(name, format_args!("deleted {}", report.deleted()));
        for image in &report.images {
            if !image.pins_released.is_empty() && !report.dry_run {
                journal.mark("the collector released a clone's pin");
            }
            if !image.clones_abandoned.is_empty() {
                journal.mark("a clone that did not appear lost its name");
            }
            for problem in &image.problems {
                journal.note(name, format_args!("{}: {problem}", image.image));
            }
        }
    }
}

/// What a pass over everything, of the newest versions alone, with nothing in its way, deleted;
/// `None` if something was in its way.
pub async fn collect_all(site: &Arc<Site>, process: &Process) -> Option<u64> {
    let policy = CollectionPolicy {
        expiry: ExpiryPolicy {
            inactive: Duration::ZERO,
            states_min: 1,
        },
        dry_run: false,
        deletes_max: None,
        abandon_after: Duration::from_secs(15),
    };
    let pass = Pass::new(site, process);
    let report = pass.collector(policy, false).collect(None).await.ok()?;
    let (deleted, went_well) = (report.deleted(), report.all_went_well());
    pass.tell(Ok(report));
    went_well.then_some(deleted)
}
