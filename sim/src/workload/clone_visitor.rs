//! Servers of clones: now and then a server opens a clone, lets clients write to it, so that the clone
//! goes its own way, and closes it clean, or dies.

use std::sync::Arc;
use std::time::Duration;

use madsim::time::{sleep, timeout};
use mvps_core::admin;
use mvps_core::env::memory::Crash;
use mvps_core::protocol::ManifestStore;
use mvps_core::store::{Patience, RetryingStore};
use tokio::sync::watch;

use super::one_shot::rest;
use super::orders::{Orders, Status};
use super::server::serve;
use crate::environment::machine::{Machine, Site};
use crate::random::RandomStream;

/// Visits after which there are pauses.
const BUSY_VISITS: u64 = 8;

/// Longest visit.
const VISIT_MAX: Duration = Duration::from_secs(20);

/// Longest time to get in, and to leave.
const PATIENCE: Duration = Duration::from_mins(10);

/// Serves one clone now and then.
pub struct CloneVisitor {
    site: Arc<Site>,
    machine: Machine,
    random: RandomStream,
}

impl CloneVisitor {
    /// A visitor on a machine called `name`, of the image of `site`.
    #[must_use]
    pub fn new(site: &Arc<Site>, name: &str) -> Self {
        Self {
            site: Arc::clone(site),
            machine: Machine::new(name, site),
            random: RandomStream::new(site.plan.seed, name),
        }
    }

    /// Comes by until `stop`.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        for done in 0.. {
            let pause = self.site.plan.history.pause_max;
            rest(&self.random, done, BUSY_VISITS, pause).await;
            if *stop.borrow() {
                return;
            }
            if self.site.model.is_alive() {
                self.visit().await;
            }
        }
    }

    async fn visit(&self) {
        let process = self.machine.start();
        let (report, mut status) = watch::channel(Status::Opening);
        let (leave, stop) = watch::channel(false);
        let orders = Orders {
            stop,
            strict: false,
        };
        let node = process.node.clone();
        node.spawn(serve(Arc::clone(&self.site), process, orders, report));
        let settled = |status: &Status| *status != Status::Opening;
        let _ = timeout(PATIENCE, status.wait_for(settled)).await;
        let found = status.borrow().clone();
        match found {
            Status::Serving => {
                self.site.journal.mark("a clone was served");
                sleep(self.random.duration(Duration::from_secs(1), VISIT_MAX)).await;
                if self.random.chance(800) {
                    // A server that ended does not listen.
                    let _ = leave.send(true);
                    let ended = |status: &Status| *status != Status::Serving;
                    let _ = timeout(PATIENCE, status.wait_for(ended)).await;
                }
                self.machine.crash(Crash::ProcessKill, &self.random);
            }
            Status::Refused(_) | Status::Failed(_) => {
                // Somebody deleted or rolled back what it had buffered: that is given up.
                self.machine.crash(Crash::ProcessKill, &self.random);
                self.take_over().await;
                self.machine.disk.lose(&self.site.image);
                self.site.model.lost(&self.machine.name);
            }
            Status::Opening | Status::Closed => {
                self.machine.crash(Crash::ProcessKill, &self.random);
            }
        }
    }

    async fn take_over(&self) {
        let process = self.machine.start();
        let environment = &process.environment;
        let store = RetryingStore::new(
            Arc::clone(&environment.objects),
            Arc::clone(&environment.clock),
            Arc::clone(&environment.entropy),
        );
        let manifests = ManifestStore::new(store.with_patience(Patience::For(PATIENCE)));
        let (clock, entropy) = (&*environment.clock, &*environment.entropy);
        let image = &self.site.image;
        let outcome = timeout(PATIENCE, admin::takeover(&manifests, clock, entropy, image)).await;
        if !matches!(outcome, Ok(Ok(_))) {
            let what = format_args!("takeover of {image} failed");
            self.site.journal.note(&process.name, what);
        }
        self.machine.crash(Crash::ProcessKill, &self.random);
    }
}
