//! Readers of published versions: servers of the session layer's own exports, called or over NBD.
//! They read a snapshot or a version for as long as an hour while everything goes on around them,
//! let go of it, and begin again.
//!
//! They are as rough as real ones: one that dies leaves its pin behind, and the next with its id
//! reads the same without a word to it; the last request of one may land when the next reads
//! already; and a copied folder is a second machine with the same id.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use madsim::runtime::{Handle, NodeHandle};
use madsim::time::{sleep, timeout};
use mvps_core::admin::{self, Admin, ReaderLife};
use mvps_core::client::{Client, ClientError};
use mvps_core::engine::{EngineConfig, EngineError, Host};
use mvps_core::ids::{ImageId, Version};
use mvps_core::nbd::{Errno, ExportName, Opening};
use mvps_core::protocol::ManifestStore;
use mvps_core::session::{EngineImages, Images, OpenImage, ReadAt, ServedDisk};
use mvps_core::token::{Grant, NewToken, Shown};
use tokio::sync::watch;

use super::connector::{Connector, RECONNECT_PAUSE, SECRET, serve_over_pipes};
use super::late_release::{LateRelease, LateSwitch, Lateness};
use super::one_shot::{Marks, rest, run_one_shot};
use super::reader_group::ReaderGroup;
use super::version_images::{Reader, VersionImages};
use crate::environment::machine::{Machine, Process, Site};
use crate::environment::store_frontend::StoreFrontend;
use crate::environment::tripwire::Tripwire;
use crate::environment::wire::WireFaults;
use crate::plan::Place;
use crate::random::RandomStream;

/// Little of what is read stays in memory.
const CACHE_BYTES: u64 = 16 << 10;

/// Versions after which a reader has pauses of its own.
const BUSY_READINGS: u64 = 30;

/// Longest pauses between two reads, of which each process has one.
const LINGER_MAX: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(20),
    Duration::from_mins(10),
];

/// Most reads of one version.
const READS_MAX: u64 = 12;

/// Most times that a process opens a version, or connects to it.
const VISITS_MAX: u64 = 3;

/// How often, of a thousand times, the machine starts anew before a process: then nobody can tell
/// that earlier ones have ended.
const MACHINE_STARTS_ANEW: u64 = 150;

/// How long a late release is under way.
const DELAY_MAX: Duration = Duration::from_mins(10);

/// Tokens expire in the year 2096.
const EXPIRES: u64 = 4_000_000_000;

/// A client's patience with a server that opens a version.
const CONNECT_PATIENCE: Duration = Duration::from_mins(20);

/// Readers on one machine, one after the other.
pub struct Readers {
    sites: Vec<Arc<Site>>,
    machine: Machine,
    /// Requests wait here that a process did not live to see answered.
    network: NodeHandle,
    group: Arc<ReaderGroup>,
    random: RandomStream,
}

impl Readers {
    /// Readers, one after the other, on a machine called `name`, of any image.
    #[must_use]
    pub fn new(sites: &[Arc<Site>], name: &str, group: &Arc<ReaderGroup>) -> Self {
        let network = Handle::current();
        let network = network.create_node().name(format!("network of {name}"));
        Self {
            sites: sites.to_vec(),
            machine: Machine::new(name, &sites[0]),
            network: network.build(),
            group: Arc::clone(group),
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
        let lines = RandomStream::new(plan.seed, &format!("lines of {}", self.machine.name));
        let (mut line, mut dead) = (lines.bits(), None);
        for done in 0.. {
            let pause = plan.history.reader_pause_max;
            rest(&self.random, done, BUSY_READINGS, pause).await;
            if *stop.borrow() {
                return;
            }
            let last = self.group.last().filter(|_| self.random.chance(600));
            let (number, shown) = match last {
                Some((number, shown)) => (number, Some(shown)),
                None => (self.any_site(), None),
            };
            let site = &self.sites[number];
            if lines.chance(MACHINE_STARTS_ANEW) {
                line = lines.bits();
            }
            let released = dead.take_if(|_| lines.chance(300));
            let mut lived = None;
            let work = |process: Process| {
                let entropy = &*process.environment.entropy;
                let life = ReaderLife::begin(&self.group.stable, line, entropy);
                lived = Some((site.image.clone(), life.clone()));
                let reading = self.reading(process, life, number, shown);
                async move {
                    if let Some((image, life)) = released {
                        reading.release_dead(&image, &life).await;
                    }
                    reading.run().await;
                }
            };
            let name = run_one_shot(&site.journal, &self.machine, &self.random, &marks, work).await;
            site.model.reader_ended(&name);
            self.group.ends(&name);
            dead = lived;
        }
    }

    fn any_site(&self) -> usize {
        let chosen = self.random.below(self.sites.len() as u64);
        usize::try_from(chosen).expect("an index")
    }

    fn reading(
        &self,
        process: Process,
        life: ReaderLife,
        number: usize,
        shown: Option<Shown>,
    ) -> Reading {
        let site = Arc::clone(&self.sites[number]);
        let seed = site.plan.seed;
        let random = RandomStream::new(seed, &format!("reading {}", process.name));
        let switch = Arc::new(LateSwitch::default());
        let tripwire = Tripwire::new(&site.journal);
        let late = LateRelease {
            objects: Arc::clone(&process.environment.objects),
            network: Arc::new(site.store.client(&process.name, &tripwire)),
            node: self.network.clone(),
            switch: Arc::clone(&switch),
            lateness: Lateness {
                waits: random.chance(700),
                delay: random.duration(Duration::from_millis(1), DELAY_MAX),
            },
            group: Arc::clone(&self.group),
            process: process.name.clone(),
            image: site.image.clone(),
            journal: site.journal.clone(),
        };
        let mut environment = process.environment.clone();
        environment.objects = Arc::new(StoreFrontend(late));
        let host = Host::new(environment, CACHE_BYTES).with_root_keys(site.plan.root_keys());
        Reading {
            reader: Arc::new(Reader {
                name: process.name.clone(),
                life,
                group: Arc::clone(&self.group),
                site,
            }),
            number,
            shown,
            process,
            host,
            dies_late: random.chance(400),
            linger_max: random.pick(&LINGER_MAX),
            switch,
            random,
        }
    }
}

/// One process that reads.
struct Reading {
    reader: Arc<Reader>,
    /// The number of its site.
    number: usize,
    /// What it reads; `None` if that is still to be chosen.
    shown: Option<Shown>,
    process: Process,
    host: Host,
    /// It dies while its last release is on its way.
    dies_late: bool,
    /// Longest pause between two reads.
    linger_max: Duration,
    switch: Arc<LateSwitch>,
    random: RandomStream,
}

impl Reading {
    async fn run(self) {
        if let Err(reason) = self.read().await {
            let journal = &self.reader.site.journal;
            journal.note(&self.process.name, format_args!("{reason}"));
        }
    }

    fn admin<'a>(&'a self, manifests: &'a ManifestStore) -> Admin<'a> {
        let environment = &self.process.environment;
        Admin {
            manifests,
            clock: &*environment.clock,
            entropy: &*environment.entropy,
            root_keys: &self.host.root_keys,
        }
    }

    /// `mvps image pins IMAGE --release LIFE`, of one that is known to be dead.
    async fn release_dead(&self, image: &ImageId, life: &ReaderLife) {
        let manifests = ManifestStore::new(self.host.store.clone());
        let admin = self.admin(&manifests);
        let released = admin::release_reader(&admin, image, &life.to_string(), None).await;
        if released.is_ok() {
            let journal = &self.reader.site.journal;
            journal.mark("the pin of a dead reader was released");
        }
    }

    async fn read(&self) -> Result<(), String> {
        let shown = match &self.shown {
            Some(shown) => shown.clone(),
            None => self.choose().await?,
        };
        self.reader.group.chose(self.number, &shown);
        let engine = EngineImages::new(self.host.clone(), EngineConfig::default());
        let images = VersionImages {
            reader: Arc::clone(&self.reader),
            engine: engine.with_reader(self.reader.life.clone()),
        };
        match self.reader.site.plan.over_nbd {
            true => self.read_over_nbd(images, &shown).await,
            false => self.read_directly(&images, &shown).await,
        }
    }

    /// A snapshot if there is one, or a version that is about to be forgotten.
    async fn choose(&self) -> Result<Shown, String> {
        let manifests = ManifestStore::new(self.host.store.clone());
        let (admin, image) = (self.admin(&manifests), &self.reader.site.image);
        let snapshots = admin::snapshots(&admin, image).await.map_err(text)?;
        if !snapshots.is_empty() && self.random.chance(600) {
            let chosen = self.random.below(snapshots.len() as u64);
            let snapshot = &snapshots[usize::try_from(chosen).expect("an index")];
            return Ok(Shown::Snapshot(snapshot.name.clone()));
        }
        let kept = admin::versions(&admin, image, 4).await.map_err(text)?;
        let versions: Vec<u64> = kept.versions.iter().map(|it| it.version).collect();
        if versions.is_empty() {
            return Err("what it looked at is gone".to_owned());
        }
        Ok(Shown::Version(Version(self.random.pick(&versions))))
    }

    /// Opens and closes the export as the session layer does.
    async fn read_directly(&self, images: &VersionImages, shown: &Shown) -> Result<(), String> {
        let grant = Grant {
            image: self.reader.site.image.clone(),
            size_bytes: None,
            page_size: None,
            read_only: true,
            shown: shown.clone(),
            client: None,
            durability: None,
            tls_client: None,
        };
        let visits = self.random.within(1..VISITS_MAX + 1);
        for visit in 1..=visits {
            let version = images.open(&grant).await.map_err(text)?;
            let connection = Connected::Called(version.attach());
            self.use_connection(&connection, version.size_bytes())
                .await?;
            if visit == visits && self.dies_late {
                self.switch.turn_on();
            }
            tokio::select! {
                biased;
                () = self.switch.sent() => return Ok(()),
                closed = version.close() => closed.map_err(text)?,
            }
            sleep(self.linger()).await;
        }
        Ok(())
    }

    /// Serves the version over NBD, to clients that come and go.
    async fn read_over_nbd(&self, images: VersionImages, shown: &Shown) -> Result<(), String> {
        let idle_time = self.reader.site.plan.idle_time;
        let (server, connector) = serve_over_pipes(&self.process, images, idle_time);
        for visit in 0..self.random.within(1..VISITS_MAX + 1) {
            let connected = timeout(CONNECT_PATIENCE, self.connect(&connector, shown, visit));
            let client = match connected.await {
                Ok(Ok(client)) => client,
                outcome => {
                    let journal = &self.reader.site.journal;
                    let outcome = outcome.map(drop);
                    journal.note(
                        &self.process.name,
                        format_args!("not connected: {outcome:?}"),
                    );
                    sleep(RECONNECT_PAUSE).await;
                    continue;
                }
            };
            let size_bytes = client.export().size_bytes;
            let connection = Connected::OverNbd(client);
            let outcome = self.use_connection(&connection, size_bytes).await;
            if let Err(reason) = outcome {
                let journal = &self.reader.site.journal;
                journal.note(&self.process.name, format_args!("{reason}"));
            }
            if let Connected::OverNbd(client) = connection
                && self.random.chance(700)
            {
                client.disconnect().await;
            }
            // Longer than the idle time: the version is closed, and opened again.
            sleep(self.linger()).await;
        }
        if self.dies_late {
            self.switch.turn_on();
        }
        tokio::select! {
            biased;
            () = self.switch.sent() => {}
            () = server.shut_down() => {}
        }
        Ok(())
    }

    async fn connect(
        &self,
        connector: &Connector,
        shown: &Shown,
        visit: u64,
    ) -> Result<Client, ClientError> {
        let (site, environment) = (&self.reader.site, &self.process.environment);
        let name = format!("{}.{visit}", self.process.name);
        let faults = WireFaults {
            split: self.random.pick(&[0, 0, 300]),
            cut_after: self
                .random
                .chance(site.plan.cuts)
                .then(|| self.random.within(1..1 << 18)),
        };
        let random = RandomStream::new(site.plan.seed, &format!("wire {name}"));
        let end = connector.connect(site, &name, faults, random).await;
        let end = end.ok_or(ClientError::Lost)?;
        let mut token = NewToken::new(&site.image, EXPIRES);
        match shown {
            Shown::Newest => {}
            Shown::Version(version) => token.version = Some(version.0),
            Shown::Snapshot(name) => token.snapshot = Some(name.clone()),
        }
        let signed = token.sign(SECRET, environment.clock.wall());
        let signed = signed.expect("a token that is admitted");
        let export = ExportName::new(signed).expect("a token fits");
        Client::connect(end, export, Opening::Go, &*environment.spawner).await
    }

    fn linger(&self) -> Duration {
        let idle_time = self.reader.site.plan.idle_time;
        self.random
            .duration(Duration::from_millis(1), 4 * idle_time)
    }

    async fn use_connection(&self, connection: &Connected, size_bytes: u64) -> Result<(), String> {
        let (site, name) = (&self.reader.site, &self.process.name);
        let plan = &site.plan;
        let size = plan.used_bytes();
        for _ in 0..self.random.within(1..READS_MAX) {
            let offset = self.random.below(size);
            let length = self.random.within(1..(size - offset).min(1 << 17) + 1);
            let Place { offset, length } = plan.areas.place(offset, length);
            if offset + length > size_bytes {
                continue;
            }
            let length = u32::try_from(length).expect("a small request");
            let bytes = match connection.read(offset, length).await {
                Ok(bytes) => bytes,
                Err(failure) => {
                    if failure.is_unreadable {
                        site.model.version_not_read(name, &failure.reason);
                    }
                    return Err(failure.reason);
                }
            };
            if site.model.version_read(name, offset, &bytes) {
                site.journal
                    .mark("a version was read that only its pin keeps");
            }
            site.journal.mark(connection.mark());
            sleep(
                self.random
                    .duration(Duration::from_millis(1), self.linger_max),
            )
            .await;
        }
        Ok(())
    }
}

/// How a version is read.
enum Connected {
    /// By calls.
    Called(ServedDisk),
    /// Over NBD.
    OverNbd(Client),
}

/// Why a read failed.
struct Failure {
    reason: String,
    /// Whether the server says that it cannot be read.
    is_unreadable: bool,
}

impl Connected {
    async fn read(&self, offset: u64, length: u32) -> Result<Bytes, Failure> {
        match self {
            Self::Called(disk) => {
                let content = disk.read(offset, length).await;
                content
                    .map(|content| content.into_bytes())
                    .map_err(|error| Failure {
                        reason: error.to_string(),
                        is_unreadable: matches!(
                            error,
                            EngineError::Unreadable { .. } | EngineError::Corrupt { .. }
                        ),
                    })
            }
            Self::OverNbd(client) => {
                let bytes = client.read(offset, length).await;
                bytes.map_err(|error| Failure {
                    reason: error.to_string(),
                    is_unreadable: error == ClientError::Failed(Errno::Io),
                })
            }
        }
    }

    fn mark(&self) -> &'static str {
        match self {
            Self::Called(_) => "a version was read through the session layer",
            Self::OverNbd(_) => "a version was read over NBD",
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
