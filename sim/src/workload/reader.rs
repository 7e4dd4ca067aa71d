//! Readers of published versions: they pin a snapshot or a version under a stable id, read it for
//! as long as an hour while everything goes on around them, and let go. One that dies leaves its
//! pin behind, which is released before the id is used again.

use std::sync::Arc;
use std::time::Duration;

use madsim::time::sleep;
use mvps_core::admin::{self, Admin, AdminError};
use mvps_core::engine::{Host, PublishedVersion};
use mvps_core::format::manifest::Manifest;
use mvps_core::ids::Version;
use mvps_core::protocol::ManifestStore;
use mvps_core::token::Shown;
use tokio::sync::watch;

use super::one_shot::{Marks, rest, run_one_shot};
use crate::environment::machine::{Machine, Process, Site};
use crate::plan::Place;
use crate::random::RandomStream;

/// Little of what is read stays in memory.
const CACHE_BYTES: u64 = 16 << 10;

/// Versions after which a reader has pauses of its own.
const BUSY_READINGS: u64 = 30;

/// Longest pause between two reads.
const LINGER_MAX: Duration = Duration::from_mins(10);

/// Most reads of one version.
const READS_MAX: u64 = 12;

/// Readers on one machine, one after the other.
pub struct Readers {
    sites: Vec<Arc<Site>>,
    machine: Machine,
    random: RandomStream,
}

impl Readers {
    /// Readers, one after the other, on a machine called `name`, of any image.
    #[must_use]
    pub fn new(sites: &[Arc<Site>], name: &str) -> Self {
        Self {
            sites: sites.to_vec(),
            machine: Machine::new(name, &sites[0]),
            random: RandomStream::new(sites[0].plan.seed, name),
        }
    }

    /// Reads until `stop`.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let plan = &self.sites[0].plan;
        let marks = Marks {
            killed: "a reader was killed",
            frozen: "a reader was frozen",
        };
        for done in 0.. {
            let pause = plan.history.pause_max;
            rest(&self.random, done, BUSY_READINGS, pause).await;
            if *stop.borrow() {
                return;
            }
            let chosen = self.random.below(self.sites.len() as u64);
            let site = &self.sites[usize::try_from(chosen).expect("an index")];
            let journal = &site.journal;
            let sites = self.sites.clone();
            let id = self.machine.name.clone();
            let work = |process: Process| {
                let random = RandomStream::new(plan.seed, &format!("reading {}", process.name));
                let site = Arc::clone(site);
                let reading = Reading {
                    id,
                    site,
                    process,
                    random,
                };
                async move {
                    reading.run(&sites).await;
                }
            };
            let name = run_one_shot(journal, &self.machine, &self.random, &marks, work).await;
            site.model.reader_ended(&name);
        }
    }
}

struct Reading {
    id: String,
    site: Arc<Site>,
    process: Process,
    random: RandomStream,
}

impl Reading {
    async fn run(self, sites: &[Arc<Site>]) {
        let environment = &self.process.environment;
        let root_keys = self.site.plan.root_keys();
        let host = Host::new(environment.clone(), CACHE_BYTES).with_root_keys(root_keys);
        let manifests = ManifestStore::new(host.store.clone());
        let admin = Admin {
            manifests: &manifests,
            clock: &*environment.clock,
            entropy: &*environment.entropy,
            root_keys: &host.root_keys,
        };
        for site in sites {
            if admin::release_reader(&admin, &site.image, &self.id)
                .await
                .is_ok()
            {
                site.journal.mark("the pin of a dead reader was released");
            }
        }
        let outcome = self.read(&admin, &host).await;
        let (journal, name) = (&self.site.journal, &self.process.name);
        match outcome {
            Ok(version) => journal.note(name, format_args!("has read version {version}")),
            Err(reason) => journal.note(name, format_args!("{reason}")),
        }
    }

    async fn read(&self, admin: &Admin<'_>, host: &Host) -> Result<Version, String> {
        let image = &self.site.image;
        let shown = self.shown(admin).await.map_err(text)?;
        let pinned = admin::pin_version(admin, image, &shown, &self.id).await;
        let manifest = pinned.map_err(text)?.manifest;
        let model = &self.site.model;
        model.reader_pinned(&self.process.name, &manifest);
        self.site.journal.note(
            &self.process.name,
            format_args!("reads version {} of {image}", manifest.version),
        );
        let read = self.read_version(host, &manifest).await;
        model.reader_ended(&self.process.name);
        let released = admin::release_reader(admin, image, &self.id).await;
        read?;
        released.map_err(text)?;
        Ok(manifest.version)
    }

    /// A snapshot if there is one, or a version that is about to be forgotten.
    async fn shown(&self, admin: &Admin<'_>) -> Result<Shown, AdminError> {
        let image = &self.site.image;
        let snapshots = admin::snapshots(admin, image).await?;
        if !snapshots.is_empty() && self.random.chance(600) {
            let chosen = self.random.below(snapshots.len() as u64);
            let snapshot = &snapshots[usize::try_from(chosen).expect("an index")];
            return Ok(Shown::Snapshot(snapshot.name.clone()));
        }
        let kept = admin::versions(admin, image, 4).await?;
        let versions: Vec<u64> = kept.versions.iter().map(|it| it.version).collect();
        Ok(match versions.is_empty() {
            true => Shown::Newest,
            false => Shown::Version(Version(self.random.pick(&versions))),
        })
    }

    async fn read_version(&self, host: &Host, manifest: &Manifest) -> Result<(), String> {
        let version = PublishedVersion::open(host, manifest).await.map_err(text)?;
        let plan = &self.site.plan;
        let size = plan.used_bytes();
        for _ in 0..self.random.within(1..READS_MAX) {
            let offset = self.random.below(size);
            let length = self.random.within(1..(size - offset).min(1 << 17) + 1);
            let Place { offset, length } = plan.areas.place(offset, length);
            if offset + length > version.size_bytes() {
                continue;
            }
            let length = u32::try_from(length).expect("a small request");
            let bytes = version.read(offset, length).await.map_err(text)?;
            let model = &self.site.model;
            let bytes = bytes.into_bytes();
            if model.version_read(&self.process.name, offset, &bytes) {
                let journal = &self.site.journal;
                journal.mark("a version was read that only its pin keeps");
            }
            sleep(self.random.duration(Duration::from_millis(1), LINGER_MAX)).await;
        }
        Ok(())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
