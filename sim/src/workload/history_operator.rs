//! An operator who works on history: snapshots, clones, rollbacks, growth and deletions through the
//! real `mvps_core::admin`, one command after the other, on any image of the run. A command may be
//! killed, frozen, or pause before it publishes; so may another operator's at the same time.

use std::sync::Arc;
use std::time::Duration;

use mvps_core::admin::{self, Admin, AdminError};
use mvps_core::env::ObjectStore;
use mvps_core::ids::Version;
use mvps_core::protocol::ManifestStore;
use mvps_core::store::{Patience, RetryingStore};
use mvps_core::token::Shown;
use tokio::sync::watch;

use super::one_shot::{Marks, rest, run_one_shot};
use crate::environment::machine::{Machine, Process, Site};
use crate::environment::pausing_store::PausingStore;
use crate::environment::request::Request;
use crate::environment::store_frontend::StoreFrontend;
use crate::plan::root_keys_exchanged;
use crate::random::RandomStream;

/// How long a command asks a store that does not answer.
const PATIENCE: Patience = Patience::For(Duration::from_secs(60));

/// Commands after which an operator has pauses.
const BUSY_COMMANDS: u64 = 60;

/// Names of snapshots that an image has at most.
const SNAPSHOTS_MAX: u64 = 4;

/// Versions of an image that commands are about.
const VERSIONS_MAX: usize = 6;

/// An operator who gives commands about history.
pub struct HistoryOperator {
    /// Every image of the run, the main ones first.
    sites: Vec<Arc<Site>>,
    /// How many of them are not clones' names.
    mains: usize,
    machine: Machine,
    random: RandomStream,
}

impl HistoryOperator {
    /// An operator on a machine called `name`. The first `mains` of `sites` are served all the
    /// time; the others are names for clones.
    #[must_use]
    pub fn new(sites: &[Arc<Site>], mains: usize, name: &str) -> Self {
        Self {
            sites: sites.to_vec(),
            mains,
            machine: Machine::new(name, &sites[0]),
            random: RandomStream::new(sites[0].plan.seed, name),
        }
    }

    /// Gives commands until `stop`.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let site = &self.sites[0];
        let marks = Marks {
            killed: "an operator's command was killed",
            frozen: "an operator's command was frozen",
        };
        for done in 0.. {
            let pause = site.plan.history.pause_max;
            rest(&self.random, done, BUSY_COMMANDS, pause).await;
            if *stop.borrow() {
                return;
            }
            let work = |process| Command::new(&self.sites, self.mains, process).run();
            run_one_shot(&site.journal, &self.machine, &self.random, &marks, work).await;
        }
    }
}

/// One command.
struct Command {
    sites: Vec<Arc<Site>>,
    mains: usize,
    process: Process,
    random: Arc<RandomStream>,
}

impl Command {
    fn new(sites: &[Arc<Site>], mains: usize, process: Process) -> Self {
        let seed = sites[0].plan.seed;
        Self {
            sites: sites.to_vec(),
            mains,
            random: Arc::new(RandomStream::new(
                seed,
                &format!("command {}", process.name),
            )),
            process,
        }
    }

    async fn run(self) {
        let manifests = ManifestStore::new(self.store());
        let environment = &self.process.environment;
        let plan = &self.sites[0].plan;
        // Which of two root keys wraps what is wrapped now.
        let root_keys = match plan.encrypted && self.random.chance(500) {
            true => root_keys_exchanged(),
            false => plan.root_keys(),
        };
        let rekeys = if plan.encrypted { 3 } else { 0 };
        let admin = Admin {
            manifests: &manifests,
            clock: &*environment.clock,
            entropy: &*environment.entropy,
            root_keys: &root_keys,
        };
        let (what, outcome) = match self.random.weighted(&[4, 3, 6, 2, 4, 1, rekeys]) {
            0 => ("snapshot create", self.create_snapshot(&admin).await),
            1 => ("snapshot delete", self.delete_snapshot(&admin).await),
            2 => ("clone", self.clone(&admin).await),
            3 => ("delete", self.delete(&admin).await),
            4 => ("rollback", self.roll_back(&admin).await),
            5 => ("resize", self.resize(&admin).await),
            _ => ("rekey", self.rekey(&admin).await),
        };
        let (journal, name) = (&self.sites[0].journal, &self.process.name);
        match outcome {
            Ok(text) => journal.note(name, format_args!("{what}: {text}")),
            Err(error) => journal.note(name, format_args!("{what}: {error}")),
        }
    }

    fn store(&self) -> RetryingStore {
        let environment = &self.process.environment;
        let objects: Arc<dyn ObjectStore> = Arc::new(StoreFrontend(PausingStore {
            journal: self.sites[0].journal.clone(),
            objects: Arc::clone(&environment.objects),
            random: Arc::clone(&self.random),
            pauses_before: |request| matches!(request, Request::Create(..)),
            chance: 150,
            mark: "an operator's publication came late",
        }));
        let (clock, entropy) = (&environment.clock, &environment.entropy);
        RetryingStore::new(objects, Arc::clone(clock), Arc::clone(entropy)).with_patience(PATIENCE)
    }

    fn any(&self) -> &Arc<Site> {
        let count = self.sites.len() as u64;
        &self.sites[usize::try_from(self.random.below(count)).expect("an index")]
    }

    fn name(&self) -> String {
        format!("s{}", self.random.below(SNAPSHOTS_MAX))
    }

    async fn version(&self, admin: &Admin<'_>, site: &Site) -> Result<Version, AdminError> {
        let kept = admin::versions(admin, &site.image, VERSIONS_MAX).await?;
        let versions: Vec<u64> = kept.versions.iter().map(|it| it.version).collect();
        if versions.is_empty() {
            return Ok(Version(1));
        }
        Ok(Version(self.random.pick(&versions)))
    }

    async fn shown(&self, admin: &Admin<'_>, site: &Site) -> Result<Shown, AdminError> {
        Ok(match self.random.below(3) {
            0 => Shown::Newest,
            1 => Shown::Snapshot(self.name()),
            _ => Shown::Version(self.version(admin, site).await?),
        })
    }

    async fn create_snapshot(&self, admin: &Admin<'_>) -> Result<String, AdminError> {
        let site = self.any();
        let version = match self.random.chance(500) {
            true => Some(self.version(admin, site).await?),
            false => None,
        };
        let made = admin::create_snapshot(admin, &site.image, &self.name(), version).await?;
        site.journal.mark("a snapshot was made");
        Ok(format!(
            "{}@{} is {}",
            made.image, made.snapshot, made.version
        ))
    }

    async fn delete_snapshot(&self, admin: &Admin<'_>) -> Result<String, AdminError> {
        let site = self.any();
        let force = self.random.chance(500);
        let gone = admin::delete_snapshot(admin, &site.image, &self.name(), force).await?;
        site.journal.mark("a snapshot was deleted");
        if !gone.pinned_by.is_empty() {
            site.journal
                .mark("a snapshot was deleted while its version was pinned");
        }
        Ok(format!(
            "{}@{} was {}",
            gone.image, gone.snapshot, gone.version
        ))
    }

    async fn clone(&self, admin: &Admin<'_>) -> Result<String, AdminError> {
        let source = self.any();
        let fits = |site: &&Arc<Site>| {
            let (one, other) = (&site.plan, &source.plan);
            one.page_size == other.page_size && site.image != source.image
        };
        let names: Vec<_> = self.sites[self.mains..].iter().filter(fits).collect();
        if names.is_empty() {
            return Ok("no name for it".to_owned());
        }
        let chosen = self.random.below(names.len() as u64);
        let target = names[usize::try_from(chosen).expect("an index")];
        let shown = self.shown(admin, source).await?;
        let cloned = admin::clone_image(admin, &source.image, &shown, &target.image).await;
        if matches!(cloned, Err(AdminError::Deleted { .. })) {
            source
                .journal
                .mark("a source was deleted before its clone was made");
        }
        let cloned = cloned?;
        if cloned.pinned_in.len() > 1 {
            source.journal.mark("a clone was made of a clone");
        }
        Ok(format!(
            "{} of {} {}",
            cloned.image, cloned.source, cloned.source_version
        ))
    }

    /// Mostly of clones; of an image that is served only by force.
    async fn delete(&self, admin: &Admin<'_>) -> Result<String, AdminError> {
        let site = self.any();
        let is_main = self.sites[..self.mains]
            .iter()
            .any(|it| it.image == site.image);
        let force = self.random.chance(if is_main { 200 } else { 700 });
        if is_main && !site.plan.history.deletes_main {
            return Ok("better not".to_owned());
        }
        let deleted = admin::delete(admin, &site.image, force).await?;
        if !deleted.pinned_by.is_empty() {
            site.journal.mark("an image was deleted that others need");
        }
        if deleted.fenced.is_some() {
            site.journal.mark("an image was deleted under its server");
        }
        Ok(format!("{} at {}", deleted.image, deleted.version))
    }

    async fn roll_back(&self, admin: &Admin<'_>) -> Result<String, AdminError> {
        let site = self.any();
        let shown = self.shown(admin, site).await?;
        let done = admin::roll_back(admin, &site.image, &shown).await?;
        Ok(format!(
            "{} to {} is {}",
            done.image, done.to_version, done.version
        ))
    }

    async fn rekey(&self, admin: &Admin<'_>) -> Result<String, AdminError> {
        let site = self.any();
        let rekeyed = admin::rekey(admin, &site.image).await?;
        let journal = &site.journal;
        match (rekeyed.replaced.is_empty(), &rekeyed.active_writer) {
            (true, _) => {}
            (false, None) => journal.mark("an image at rest was rekeyed"),
            (false, Some(_)) => journal.mark("an image was rekeyed under its server"),
        }
        Ok(format!(
            "{} at {}: {} keys",
            rekeyed.image, rekeyed.version, rekeyed.data_keys
        ))
    }

    async fn resize(&self, admin: &Admin<'_>) -> Result<String, AdminError> {
        let site = self.any();
        let shown = admin::show(admin.manifests, &site.image).await?;
        let step = 8 * site.plan.page_size.bytes() as u64;
        let resized = admin::resize(admin, &site.image, shown.size_bytes + step).await?;
        site.journal.mark("an image at rest was grown");
        Ok(format!("{} has {}", resized.image, resized.size_bytes))
    }
}
