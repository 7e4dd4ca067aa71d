//! What happens to servers: started, stopped, killed, paused, taken over from, robbed of their disks.
//!
//! Plays the operator too: a server that is refused is helped by a takeover, an adoption, or by
//! moving its buffer store away, as the refusal says.

mod events;
mod finale;

use std::sync::Arc;
use std::time::Duration;

use madsim::time::{sleep, timeout};
use mvps_core::admin;
use mvps_core::encryption::RootKeys;
use mvps_core::env::memory::Crash;
use mvps_core::protocol::{ManifestStore, Opener};
use mvps_core::store::{Patience, ProbeError, RetryingStore};
use tokio::sync::watch;

use crate::environment::disk::DiskCopy;
use crate::environment::machine::{Machine, Process, Site};
use crate::model::Disk;
use crate::random::RandomStream;
use crate::workload::orders::{Orders, Status};
use crate::workload::server::serve;

/// How long an operator waits for a command.
const OPERATOR_PATIENCE: Duration = Duration::from_secs(300);

/// How often a server is started on a store that has to be refused.
const REFUSED_TRIES: u32 = 4;

/// How long clients go on with a server that does not reach the store, before they are silent: longer
/// than a confirmation of the tenure lasts.
const CUT_OFF_BEFORE_SILENCE: Duration = Duration::from_secs(20);

/// A server process that was started.
struct Running {
    status: watch::Receiver<Status>,
    stop: watch::Sender<bool>,
}

/// A buffer store as it was.
struct OldCopy {
    machine: usize,
    copy: DiskCopy,
    /// What the model knew of it.
    known: Disk,
    /// Nothing can be opened from it.
    hopeless: bool,
}

/// Drives the servers of one image.
pub struct Driver {
    site: Arc<Site>,
    random: RandomStream,
    /// Decides when clients are silent.
    quiet: RandomStream,
    machines: Vec<Machine>,
    running: Vec<Option<Running>>,
    paused: Vec<bool>,
    operator: Machine,
    /// The machine that should serve.
    in_charge: usize,
    /// How often it was refused in a row.
    refusals: u32,
    copies: Vec<OldCopy>,
    /// Machines whose buffer store is of no more use.
    hopeless: Vec<bool>,
}

impl Driver {
    /// Two machines and an operator's, whose names begin with `prefix`.
    #[must_use]
    pub fn new(site: &Arc<Site>, prefix: &str) -> Self {
        let machines: Vec<_> = ["alpha", "beta"]
            .into_iter()
            .map(|name| Machine::new(&format!("{prefix}{name}"), site))
            .collect();
        Self {
            site: Arc::clone(site),
            random: RandomStream::new(site.plan.seed, &format!("{prefix}driver")),
            quiet: RandomStream::new(site.plan.seed, &format!("{prefix}silence")),
            running: machines.iter().map(|_| None).collect(),
            paused: vec![false; machines.len()],
            machines,
            operator: Machine::new(&format!("{prefix}operator"), site),
            in_charge: 0,
            refusals: 0,
            copies: Vec::new(),
            hopeless: vec![false; 2],
        }
    }

    /// What happens to servers, until the seed has had enough.
    pub async fn rounds(&mut self) {
        for _ in 0..self.site.plan.rounds {
            self.fall_silent().await;
            self.settle_in().await;
            let pause = self
                .random
                .duration(Duration::from_millis(1), self.site.plan.round_max);
            self.wait_for(pause, |status| {
                !matches!(status, Status::Opening | Status::Serving)
            })
            .await;
            self.reap_strays();
            self.happen().await;
        }
    }

    /// Once in a while clients ask for nothing, also right after a restart.
    async fn fall_silent(&mut self) {
        if !self.quiet.chance(self.site.plan.silences) {
            return;
        }
        if self.quiet.chance(400) {
            // The last that the server hears of the store is nothing.
            let name = self.machines[self.in_charge].name.clone();
            self.site.store.cut_off(&name, CUT_OFF_BEFORE_SILENCE * 2);
            sleep(CUT_OFF_BEFORE_SILENCE).await;
        }
        let within = self.site.model.lands_within();
        let duration = within + within / 4;
        self.note(format_args!("silence for {duration:?}"));
        self.site.silence.begin(duration);
        self.settle_in().await;
        sleep(duration).await;
    }

    /// A store that two servers could overwrite each other's images in is not used, however often
    /// somebody tries.
    pub async fn refuse_the_store(&mut self) {
        for _ in 0..REFUSED_TRIES {
            self.start(self.in_charge, false);
            let settled = |status: &Status| *status != Status::Opening;
            self.wait_for(OPERATOR_PATIENCE, settled).await;
            let status = self.status(self.in_charge);
            let reason = ProbeError::IgnoresConditions.to_string();
            if status != Some(Status::Refused(reason)) {
                self.site.journal.fail(
                    "7 (fencing)",
                    format_args!("a store without conditional create is used: {status:?}"),
                );
            }
            self.site.journal.checked(7);
            self.site.journal.mark("a store was refused");
            self.crash(self.in_charge, Crash::ProcessKill);
        }
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.site.journal.note("driver", what);
    }

    fn status(&self, machine: usize) -> Option<Status> {
        self.running[machine]
            .as_ref()
            .map(|running| running.status.borrow().clone())
    }

    /// Starts a server on `machine`; one that still runs there goes on, and is in its way.
    fn start(&mut self, machine: usize, strict: bool) {
        let process = self.machines[machine].start();
        let (report, status) = watch::channel(Status::Opening);
        let (stop, stopped) = watch::channel(false);
        let orders = Orders {
            stop: stopped,
            strict,
        };
        let node = process.node.clone();
        node.spawn(serve(Arc::clone(&self.site), process, orders, report));
        self.running[machine] = Some(Running { status, stop });
    }

    fn crash(&mut self, machine: usize, crash: Crash) {
        self.resume(machine);
        self.machines[machine].crash(crash, &self.random);
        self.running[machine] = None;
    }

    fn pause(&mut self, machine: usize) {
        self.paused[machine] = true;
        self.machines[machine].pause();
    }

    fn resume(&mut self, machine: usize) {
        if std::mem::take(&mut self.paused[machine]) {
            self.machines[machine].resume();
        }
    }

    /// The buffer store of a machine is gone, with the process that had it.
    fn lose_buffer(&mut self, machine: usize) {
        self.crash(machine, Crash::ProcessKill);
        self.note(format_args!(
            "the buffer store of {} is moved away",
            self.machines[machine].name
        ));
        self.hopeless[machine] = false;
        self.machines[machine].disk.lose(&self.site.image);
        self.site.model.lost(&self.machines[machine].name);
    }

    /// Waits until the server in charge has such a status, for as long as `patience`.
    async fn wait_for(&mut self, patience: Duration, wanted: impl Fn(&Status) -> bool) -> bool {
        let Some(running) = &mut self.running[self.in_charge] else {
            return false;
        };
        let reached = running.status.wait_for(|status| wanted(status));
        matches!(timeout(patience, reached).await, Ok(Ok(_)))
    }

    /// Sees to it that a server is started on the machine in charge.
    async fn settle_in(&mut self) {
        self.resume(self.in_charge);
        match self.status(self.in_charge) {
            Some(Status::Opening | Status::Serving) => return,
            Some(Status::Refused(_)) => {
                self.site.journal.mark("a server was refused");
                self.crash(self.in_charge, Crash::ProcessKill);
                self.help_in().await;
            }
            Some(Status::Failed(_)) if self.hopeless[self.in_charge] => {
                self.give_up_disk().await;
            }
            Some(Status::Failed(_)) => {
                self.refusals = 0;
                let loses_power = self.quiet.chance(self.site.plan.failed_lose_power);
                let crash = match loses_power {
                    true => Crash::PowerCut,
                    false => Crash::ProcessKill,
                };
                self.crash(self.in_charge, crash);
            }
            Some(Status::Closed) => {
                self.refusals = 0;
                self.crash(self.in_charge, Crash::ProcessKill);
            }
            None => {}
        }
        self.start(self.in_charge, false);
    }

    /// What an operator does about a refusal.
    async fn help_in(&mut self) {
        self.refusals += 1;
        self.take_over().await;
        let name = self.machines[self.in_charge].name.clone();
        // Nobody gets a deleted image back.
        let alive = self.site.model.is_alive();
        if alive && self.site.model.owns_newest(&name) && self.refusals < 3 {
            self.adopt(self.in_charge).await;
        } else {
            self.lose_buffer(self.in_charge);
        }
    }

    /// What is on the disk in charge cannot be used: its loss is accepted.
    pub(crate) async fn give_up_disk(&mut self) {
        self.crash(self.in_charge, Crash::ProcessKill);
        self.take_over().await;
        self.lose_buffer(self.in_charge);
    }

    fn operator_store(process: &Process) -> RetryingStore {
        let environment = &process.environment;
        RetryingStore::new(
            Arc::clone(&environment.objects),
            Arc::clone(&environment.clock),
            Arc::clone(&environment.entropy),
        )
        .with_patience(Patience::For(Duration::from_secs(60)))
    }

    /// `mvps image takeover`.
    async fn take_over(&mut self) {
        let process = self.operator.start();
        let command = async {
            let manifests = ManifestStore::new(Self::operator_store(&process));
            let (clock, entropy) = (&process.environment.clock, &process.environment.entropy);
            admin::takeover(&manifests, &**clock, &**entropy, &self.site.image).await
        };
        let outcome = timeout(OPERATOR_PATIENCE, command).await;
        match outcome {
            Ok(Ok(_)) => self.site.journal.fault("operator", "operator: takeover"),
            Ok(Err(error)) => self.note(format_args!("takeover: {error}")),
            Err(_) => self.note(format_args!("takeover: no patience left")),
        }
    }

    /// `mvps image adopt`, on a machine without a server.
    async fn adopt(&mut self, machine: usize) {
        let process = self.machines[machine].start();
        let name = process.name.clone();
        // The command runs on the machine, whose crash ends it.
        let (done, end) = tokio::sync::oneshot::channel();
        let (node, image) = (process.node.clone(), self.site.image.clone());
        node.spawn(async move {
            let environment = &process.environment;
            let manifests = ManifestStore::new(Self::operator_store(&process));
            let opener = Opener {
                manifests: &manifests,
                clock: &*environment.clock,
                entropy: &*environment.entropy,
                owner: "operator",
                // Adopting reads no content.
                root_keys: &RootKeys::none(),
            };
            let adopted = admin::adopt(&opener, &*environment.buffers, &image).await;
            // The driver may have lost patience.
            let _ = done.send(adopted);
        });
        match timeout(OPERATOR_PATIENCE, end).await {
            Ok(Ok(Ok(adopted))) => {
                self.site.journal.fault("operator", "operator: adopt");
                self.site.journal.mark("a buffer store was adopted");
                self.note(format_args!("{name} adopted: LSN {}", adopted.buffer_lsn));
            }
            Ok(Ok(Err(error))) => self.note(format_args!("adopt: {error}")),
            Ok(Err(_)) | Err(_) => self.note(format_args!("adopt: no answer")),
        }
        self.crash(machine, Crash::ProcessKill);
    }

    /// Servers that are not in charge any more end some day.
    fn reap_strays(&mut self) {
        for machine in 0..self.machines.len() {
            if machine == self.in_charge || self.running[machine].is_none() {
                continue;
            }
            if self.paused[machine] && self.random.chance(400) {
                self.resume(machine);
            } else if self.random.chance(250) {
                self.crash(machine, Crash::ProcessKill);
            }
        }
    }

    async fn nap(&self, least: Duration, most: Duration) {
        sleep(self.random.duration(least, most)).await;
    }
}
