//! A machine: a node, its disk, its clock, and one server process after the other.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use madsim::runtime::{Handle, NodeHandle};
use madsim::task::NodeId;
use mvps_core::env::Environment;
use mvps_core::env::memory::{
    BufferFault, Crash, MemoryBufferStores, MemoryFiles, SeededEntropy, Strike,
};
use mvps_core::ids::ImageId;

use super::buffers::{BufferLimits, SimBufferStores};
use super::clock::SimClock;
use super::disk::Disk;
use super::disk_cache::CacheDisk;
use super::objects::StoreService;
use super::silence::Silence;
use super::spawner::SimSpawner;
use super::tripwire::Tripwire;
use crate::journal::Journal;
use crate::model::Model;
use crate::model::images::Images;
use crate::plan::Plan;
use crate::random::{RandomStream, stream};

/// What all machines of one image share.
pub struct Site {
    /// The image that it is about.
    pub image: ImageId,
    /// What the seed drew for it.
    pub plan: Plan,
    /// The record of the run.
    pub journal: Journal,
    /// Knows what must be true of the image.
    pub model: Arc<Model>,
    /// Knows all images.
    pub images: Arc<Images>,
    /// When nobody asks for anything.
    pub silence: Silence,
    /// The object store.
    pub store: Arc<StoreService>,
}

/// A machine: its node, its disk, and the process that runs on it.
pub struct Machine {
    /// Its name.
    pub name: String,
    site: Arc<Site>,
    node: NodeId,
    /// Survives every process.
    pub disk: Disk,
    /// What its disk keeps of the object store.
    cache: CacheDisk,
    /// How far its wall clock is off.
    wall_offset_ms: Arc<AtomicI64>,
    /// Its wall clock jumped, and nobody has looked at it since.
    jumped: Arc<AtomicBool>,
    /// A process was started since the last crash.
    runs: AtomicBool,
    /// What was done to its disk, and strikes when a process opens that.
    latent: Arc<Mutex<Vec<&'static str>>>,
    /// Where its processes may stop dead.
    pub tripwire: Tripwire,
    incarnations: AtomicU64,
}

/// One process on a machine.
#[derive(Clone)]
pub struct Process {
    /// Machine and number: the name by which the model and the store know it.
    pub name: String,
    /// The environment that its code sees.
    pub environment: Environment,
    /// Where its tasks run.
    pub node: NodeHandle,
    /// What the machine's disk keeps of the object store.
    pub cache: CacheDisk,
}

impl Machine {
    /// A machine with an empty disk.
    #[must_use]
    pub fn new(name: &str, site: &Arc<Site>) -> Self {
        let node = Handle::current().create_node().name(name).build();
        Self {
            name: name.to_owned(),
            site: Arc::clone(site),
            node: node.id(),
            disk: watched_disk(name, site),
            cache: CacheDisk::default(),
            wall_offset_ms: Arc::default(),
            jumped: Arc::default(),
            runs: AtomicBool::new(false),
            latent: Arc::default(),
            tripwire: Tripwire::new(&site.journal),
            incarnations: AtomicU64::new(0),
        }
    }

    /// Starts a process; the one before was killed, or is another program on the same machine.
    #[must_use]
    pub fn start(&self) -> Process {
        let number = self.incarnations.fetch_add(1, Ordering::SeqCst) + 1;
        let name = format!("{}/{number}", self.name);
        let node = Handle::current()
            .get_node(self.node)
            .expect("nodes are never removed");
        let site = &self.site;
        let seed = site.plan.seed;
        let random = |what: &str| RandomStream::new(seed, &format!("{what} of {name}"));
        let buffers = SimBufferStores {
            server: name.clone(),
            disk: self.disk.clone(),
            node: Some(node.clone()),
            journal: site.journal.clone(),
            model: Some(Arc::clone(&site.model)),
            random: Arc::new(random("disk")),
            longest: site.plan.disk_max,
            tripwire: self.tripwire.clone(),
            latent: Arc::clone(&self.latent),
            limits: Some(BufferLimits::of(&site.plan.config)),
        };
        let clock = SimClock::new(
            &random("clock"),
            site.plan.drift_ppm,
            Arc::clone(&self.wall_offset_ms),
        )
        .watched(&self.jumped, &site.journal, &name);
        let clock = Arc::new(clock);
        let environment = Environment {
            clock: Arc::clone(&clock) as _,
            entropy: Arc::new(SeededEntropy::new(stream(
                seed,
                &format!("entropy of {name}"),
            ))),
            spawner: Arc::new(SimSpawner::new(node.clone(), random("processor"))),
            objects: Arc::new(site.store.client(&name, &self.tripwire)),
            buffers: Arc::new(buffers),
        };
        if clock.drifts() {
            site.journal.fault(&name, "clock: drift");
        }
        self.runs.store(true, Ordering::SeqCst);
        site.model.started(&name);
        Process {
            name,
            environment,
            node,
            cache: self.cache.clone(),
        }
    }

    /// What its next process finds on the disk is not what the last one left.
    pub fn will_find(&self, fault: &'static str) {
        self.site
            .journal
            .note(&self.name, format_args!("the disk: {fault}"));
        self.latent().push(fault);
    }

    fn latent(&self) -> std::sync::MutexGuard<'_, Vec<&'static str>> {
        self.latent.lock().expect("nothing panics under this lock")
    }

    /// The wall clock is off by `hours` from now on.
    pub fn jump(&self, hours: i64) {
        self.wall_offset_ms
            .store(hours * 3_600_000, Ordering::SeqCst);
        self.jumped.store(true, Ordering::SeqCst);
        self.site.journal.note(
            &self.name,
            format_args!("the clock is off by {hours} hours"),
        );
    }

    /// Ends every process of the machine, at this instant.
    pub fn crash(&self, crash: Crash, random: &RandomStream) {
        let fault = match crash {
            Crash::PowerCut => "process: power cut",
            Crash::ProcessKill => "process: kill",
        };
        if self.runs.swap(false, Ordering::SeqCst) {
            self.site.journal.fault(&self.name, fault);
        } else {
            self.site
                .journal
                .note(&self.name, format_args!("{fault}, of nobody"));
        }
        self.tripwire.disarm();
        let handle = Handle::current();
        handle.kill(self.node);
        handle.restart(self.node);
        let entropy = SeededEntropy::new(random.bits());
        self.disk.crash(crash, &entropy);
        if self.site.plan.on_files {
            self.cache.crash(crash, &entropy);
        }
        self.site
            .model
            .crashed(&self.name, crash == Crash::PowerCut);
    }

    /// Nothing on the machine runs until [`Machine::resume`].
    pub fn pause(&self) {
        if self.runs.load(Ordering::SeqCst) {
            self.site.journal.fault(&self.name, "process: pause");
        }
        self.site.model.paused(&self.name);
        Handle::current().pause(self.node);
    }

    /// Goes on after a pause.
    pub fn resume(&self) {
        self.site.journal.note(&self.name, format_args!("resumed"));
        self.site.model.resumed(&self.name);
        Handle::current().resume(self.node);
    }
}

/// An empty disk that counts what strikes.
fn watched_disk(machine: &str, site: &Arc<Site>) -> Disk {
    let on_files = site.plan.on_files;
    let disk = match on_files {
        true => Disk::Files(MemoryFiles::new()),
        false => Disk::Records(MemoryBufferStores::new()),
    };
    let (name, journal, model) = (
        machine.to_owned(),
        site.journal.clone(),
        Arc::clone(&site.model),
    );
    disk.watch(move |strike| {
        journal.fault(&name, name_of(strike));
        match strike {
            // It is waited out.
            Strike::Fault(BufferFault::DiskFull) => model.had_no_room(&name),
            Strike::Fault(BufferFault::OpenFails) if on_files => model.had_no_room(&name),
            _ => model.struck(&name),
        }
    });
    disk
}

/// The fault's name.
fn name_of(strike: Strike) -> &'static str {
    match strike {
        Strike::Fault(BufferFault::SyncFails) => "buffer: sync fails",
        Strike::Fault(BufferFault::DiskFull) => "buffer: disk full",
        Strike::Fault(BufferFault::WriteFails) => "buffer: write fails",
        Strike::Fault(BufferFault::SealFails) => "buffer: seal fails",
        Strike::Fault(BufferFault::ReadFails) => "buffer: read fails",
        Strike::Fault(BufferFault::OpenFails) => "buffer: open fails",
        Strike::Rot => "buffer: bit rot",
        Strike::Damage => "buffer: damaged",
    }
}
