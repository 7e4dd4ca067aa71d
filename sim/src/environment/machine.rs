//! A machine: a node, its disk, its clock, and one server process after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use madsim::runtime::{Handle, NodeHandle};
use madsim::task::NodeId;
use mvps_core::env::Environment;
use mvps_core::env::memory::{Crash, MemoryBufferStores, SeededEntropy};
use mvps_core::ids::ImageId;

use super::buffers::{BufferLimits, SimBufferStores};
use super::clock::SimClock;
use super::objects::StoreService;
use super::spawner::SimSpawner;
use super::tripwire::Tripwire;
use crate::journal::Journal;
use crate::model::Model;
use crate::plan::Plan;
use crate::random::{RandomStream, stream};

/// A disk that may take that long is slow.
const SLOW_DISK: std::time::Duration = std::time::Duration::from_secs(1);

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
    pub disk: MemoryBufferStores,
    /// How far its wall clock is off.
    pub wall_offset_ms: Arc<AtomicI64>,
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
            disk: MemoryBufferStores::new(),
            wall_offset_ms: Arc::default(),
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
            journal: site.journal.clone(),
            model: Some(Arc::clone(&site.model)),
            random: Arc::new(random("disk")),
            longest: site.plan.disk_max,
            tripwire: self.tripwire.clone(),
            limits: Some(BufferLimits::of(&site.plan.config)),
        };
        let clock = SimClock::new(
            &random("clock"),
            site.plan.drift_ppm,
            Arc::clone(&self.wall_offset_ms),
        );
        let environment = Environment {
            clock: Arc::new(clock),
            entropy: Arc::new(SeededEntropy::new(stream(
                seed,
                &format!("entropy of {name}"),
            ))),
            spawner: Arc::new(SimSpawner::new(node.clone(), random("processor"))),
            objects: Arc::new(site.store.client(&name, &self.tripwire)),
            buffers: Arc::new(buffers),
        };
        if site.plan.drift_ppm > 0 {
            site.journal.fault(&name, "clock: drift");
        }
        if site.plan.disk_max >= SLOW_DISK {
            site.journal.fault(&name, "buffer: slow disk");
        }
        site.model.started(&name);
        Process {
            name,
            environment,
            node,
        }
    }

    /// Ends every process of the machine, at this instant.
    pub fn crash(&self, crash: Crash, random: &RandomStream) {
        let fault = match crash {
            Crash::PowerCut => "process: power cut",
            Crash::ProcessKill => "process: kill",
        };
        self.site.journal.fault(&self.name, fault);
        self.tripwire.disarm();
        let handle = Handle::current();
        handle.kill(self.node);
        handle.restart(self.node);
        let entropy = SeededEntropy::new(random.bits());
        self.disk.crash(crash, &entropy);
        self.site
            .model
            .crashed(&self.name, crash == Crash::PowerCut);
    }

    /// Nothing on the machine runs until [`Machine::resume`].
    pub fn pause(&self) {
        self.site.journal.fault(&self.name, "process: pause");
        Handle::current().pause(self.node);
    }

    /// Goes on after a pause.
    pub fn resume(&self) {
        self.site.journal.note(&self.name, format_args!("resumed"));
        self.site.model.resumed(&self.name);
        Handle::current().resume(self.node);
    }
}
