//! Tasks on one incarnation of a machine: when it is killed, nothing of it is polled again.

use std::time::Duration;

use futures_util::future::BoxFuture;
use madsim::runtime::NodeHandle;
use mvps_core::env::Spawner;

use crate::random::RandomStream;

/// Computations that take a moment, per thousand; the others end before anything else happens.
const SLOW_COMPUTATIONS: u64 = 200;

/// Spawns tasks on one incarnation of a machine.
pub struct SimSpawner {
    node: NodeHandle,
    random: RandomStream,
}

impl SimSpawner {
    /// Spawns on the incarnation of `node` that lives now.
    #[must_use]
    pub fn new(node: NodeHandle, random: RandomStream) -> Self {
        Self { node, random }
    }
}

impl Spawner for SimSpawner {
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        self.node.spawn(task);
    }

    fn compute(&self, job: Box<dyn FnOnce() + Send>) {
        if self.random.chance(SLOW_COMPUTATIONS) {
            let pause = Duration::from_millis(self.random.within(1..20));
            self.node.spawn(async move {
                madsim::time::sleep(pause).await;
                job();
            });
        } else {
            job();
        }
    }
}

/// Runs everything at once, where nothing waits: for the oracle that reads what landed.
pub struct InlineSpawner;

impl Spawner for InlineSpawner {
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        madsim::task::spawn(task);
    }

    fn compute(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }
}
