//! What can happen to a server, one thing at a time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use madsim::time::{sleep, timeout};
use mvps_core::env::memory::{BufferFault, Crash, MemoryBufferStores, MemoryFiles, SeededEntropy};
use mvps_core::env::{BufferBatch, BufferRecord, PageRun, RecordRef};
use mvps_core::format::buffer_metadata::BufferMetadata;
use mvps_core::ids::{BufferStoreId, ImageId, Lsn, PageNumber};

use super::{Driver, OldCopy};
use crate::environment::disk::{Disk, DiskCopy};
use crate::environment::tripwire::{RARE_CALLS, Tripwire};
use crate::journal::Choice;
use crate::random::RandomStream;
use crate::workload::orders::Status;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// Records that rot at once: few of them are read before they are published or given up.
const ROTTEN_RECORDS: u64 = 4;

/// Old copies of buffer stores that are kept.
const COPIES_MAX: usize = 4;

impl Driver {
    /// Draws an event, and lets it happen.
    pub(super) async fn happen(&mut self) {
        self.copy_some_disk();
        let events = self.site.plan.events;
        let weights = [
            events.kill,
            events.power_cut,
            events.restart,
            events.pause,
            events.takeover,
            events.lose_buffer,
            events.roll_back,
            events.adopt,
            events.outage,
            events.cut_off,
            events.clock_jump,
            events.buffer_fault,
            events.intruder,
            events.trip,
            events.rot,
        ];
        let serving = self.status(self.in_charge);
        let machine = self.in_charge;
        let event = self.random.weighted(&weights);
        if !self.site.journal.happens(Choice::Event) {
            return;
        }
        match event {
            0 => self.crash(machine, Crash::ProcessKill),
            1 => self.crash(machine, Crash::PowerCut),
            2 => self.restart().await,
            3 => {
                self.pause(machine);
                self.nap(SECOND, 2 * HOUR).await;
                self.resume(machine);
            }
            4 => self.take_over_elsewhere().await,
            5 => {
                self.crash(machine, Crash::PowerCut);
                if self.machines[machine].disk.copy(&self.site.image).is_some() {
                    self.machines[machine].will_find("buffer: lost whole");
                }
                self.lose_buffer(machine);
                self.take_over().await;
            }
            6 => self.roll_back(),
            7 => self.take_over_and_adopt().await,
            8 => {
                let duration = self.random.duration(SECOND, 10 * MINUTE);
                self.site.store.outage(duration);
            }
            9 => {
                let duration = self.random.duration(SECOND, 10 * MINUTE);
                self.site
                    .store
                    .cut_off(&self.machines[machine].name, duration);
            }
            10 => self.jump(),
            11 => self.break_disk(serving.as_ref()),
            12 => self.intrude().await,
            13 => self.trip().await,
            _ => self.rot(),
        }
    }

    fn copy_some_disk(&mut self) {
        if self.site.plan.events.roll_back == 0 || !self.random.chance(400) {
            return;
        }
        let machine = self.in_charge;
        if let Some(copy) = self.machines[machine].disk.copy(&self.site.image) {
            if self.copies.len() == COPIES_MAX {
                self.copies.remove(0);
            }
            let known = self.site.model.copied(&self.machines[machine].name);
            let hopeless = self.hopeless[machine];
            self.copies.push(OldCopy {
                machine,
                copy,
                known,
                hopeless,
            });
        }
    }

    async fn restart(&mut self) {
        let machine = self.in_charge;
        let Some(running) = &self.running[machine] else {
            return;
        };
        // A server that ended does not listen.
        let _ = running.stop.send(true);
        // Some are not given the time.
        let patience = if self.random.chance(300) {
            self.random.duration(Duration::from_millis(1), SECOND)
        } else {
            10 * MINUTE
        };
        let ended = |status: &Status| !matches!(status, Status::Opening | Status::Serving);
        if !self.wait_for(patience, ended).await {
            self.site
                .journal
                .mark("a server was killed while it closed");
        }
        if self.status(machine) == Some(Status::Closed) && self.random.chance(500) {
            // The same process, or another while this one lingers: the buffer store is free.
            self.site
                .journal
                .mark("a server started where another had closed");
            self.start(machine, false);
            return;
        }
        self.crash(machine, Crash::ProcessKill);
        // An image that was closed clean may move.
        if self.random.chance(300) {
            self.in_charge = (machine + 1) % self.machines.len();
        }
    }

    /// Another machine takes over, while the first one lives, sleeps, is cut off, or is dead.
    async fn take_over_elsewhere(&mut self) {
        let machine = self.in_charge;
        let name = self.machines[machine].name.clone();
        match self.random.below(4) {
            0 => self.site.journal.mark("a takeover from a live server"),
            1 => {
                self.pause(machine);
                self.nap(SECOND, HOUR).await;
                self.site.journal.mark("a takeover from a paused server");
            }
            2 => {
                self.site.store.cut_off(&name, 5 * MINUTE);
                self.site
                    .journal
                    .mark("a takeover from a server that is cut off");
            }
            _ => self.crash(machine, Crash::PowerCut),
        }
        self.take_over().await;
        let other = (machine + 1) % self.machines.len();
        if self.random.chance(700) {
            // The operator gives it an empty buffer store.
            self.lose_buffer(other);
        } else {
            self.crash(other, Crash::ProcessKill);
        }
        self.in_charge = other;
        self.refusals = 0;
        self.start(other, false);
        if self.paused[machine] && self.random.chance(500) {
            self.nap(Duration::from_millis(1), MINUTE).await;
            self.resume(machine);
        }
    }

    async fn take_over_and_adopt(&mut self) {
        let machine = self.in_charge;
        let crash = self.random.pick(&[Crash::ProcessKill, Crash::PowerCut]);
        self.crash(machine, crash);
        self.take_over().await;
        self.adopt(machine).await;
    }

    fn roll_back(&mut self) {
        let Some(old) = self.copies.pop() else {
            return;
        };
        let machine = old.machine;
        self.crash(machine, Crash::PowerCut);
        if !self.site.model.remembers(&old.known) {
            return;
        }
        let name = self.machines[machine].name.clone();
        self.machines[machine].will_find("buffer: rolled back");
        self.hopeless[machine] = old.hopeless;
        let disk = &self.machines[machine].disk;
        disk.restore(&self.site.image, &old.copy);
        self.site.model.rolled_back(&name, &old.known);
    }

    fn jump(&mut self) {
        let machine = self.in_charge;
        let hours = i64::try_from(self.random.below(2000)).unwrap_or(0) - 1000;
        self.machines[machine].jump(hours);
    }

    fn break_disk(&mut self, status: Option<&Status>) {
        if status != Some(&Status::Serving) {
            return;
        }
        let machine = &self.machines[self.in_charge];
        if self.site.plan.on_files && self.quiet.chance(400) {
            let full = self.quiet.duration(SECOND, 5 * MINUTE);
            let disk = machine.disk.clone();
            disk.fill(true);
            let note = format_args!("the disk is full for {full:?}");
            self.site.journal.note(&machine.name, note);
            madsim::task::spawn(async move {
                sleep(full).await;
                disk.fill(false);
            });
        }
        for _ in 0..self.random.within(1..self.site.plan.disk_faults_max + 1) {
            let fault = self.random.pick(&[
                BufferFault::SyncFails,
                BufferFault::DiskFull,
                BufferFault::WriteFails,
                BufferFault::SealFails,
                BufferFault::ReadFails,
                BufferFault::OpenFails,
            ]);
            machine.disk.script(&self.site.image, fault);
            let journal = &self.site.journal;
            journal.note(
                &machine.name,
                format_args!("the disk is going to: {fault:?}"),
            );
        }
    }

    /// The process stops dead at some call, while it serves or while it opens, and is ended.
    async fn trip(&mut self) {
        let machine = self.in_charge;
        let tripwire = self.machines[machine].tripwire.clone();
        if self.site.plan.on_files && self.quiet.chance(500) {
            // In the middle of a call of the disk, of which there are several in one of the store's.
            let calls = self.quiet.below(12);
            self.machines[machine].disk.stop_after(calls);
        } else if self.quiet.chance(400) {
            tripwire.arm_at(self.quiet.pick(&RARE_CALLS), self.quiet.below(6));
        } else {
            tripwire.arm(self.random.within(1..80));
        }
        let patience = self.random.duration(SECOND, MINUTE);
        self.wait_for_trip(&tripwire, patience).await;
        if self.machines[machine].disk.has_stopped() {
            let name = &self.machines[machine].name;
            let journal = &self.site.journal;
            journal.note(name, format_args!("it ended at a call of its disk"));
        }
        self.crash_somehow(machine);
        // Once more, while it opens.
        if self.random.chance(500) {
            tripwire.arm(self.random.below(40));
            self.start(machine, false);
            self.wait_for_trip(&tripwire, MINUTE).await;
            if self.status(machine) == Some(Status::Opening) {
                self.site
                    .journal
                    .mark("a server was killed while it opened");
            }
            self.crash_somehow(machine);
        }
    }

    async fn wait_for_trip(&self, tripwire: &Tripwire, patience: Duration) {
        // Who does not trip is ended where it is.
        let _ = timeout(patience, tripwire.tripped()).await;
    }

    fn crash_somehow(&mut self, machine: usize) {
        let crash = self.random.pick(&[Crash::ProcessKill, Crash::PowerCut]);
        self.crash(machine, crash);
    }

    /// The disk betrays: somebody notices, sooner or later, and gives it up.
    fn rot(&mut self) {
        let machine = self.in_charge;
        let name = self.machines[machine].name.clone();
        let disk = self.machines[machine].disk.clone();
        let entropy = SeededEntropy::new(self.random.bits());
        match self.random.below(4) {
            0 => disk.damage(&self.site.image),
            1 => {
                self.crash(machine, Crash::PowerCut);
                disk.restore(
                    &self.site.image,
                    &another_images_store(self.site.plan.on_files),
                );
                self.site.model.swapped(&name);
                self.machines[machine].will_find("buffer: another image's");
            }
            _ => {
                let rots = |_: &u64| disk.rot(&self.site.image, &entropy);
                if (0..ROTTEN_RECORDS).filter(rots).count() == 0 {
                    return;
                }
                let journal = &self.site.journal;
                journal.note(&name, format_args!("the disk rots"));
                if self.site.plan.on_files {
                    self.site.model.rotted(&name);
                }
            }
        }
        self.site.model.damaged();
        self.hopeless[machine] = true;
    }

    /// A second server without a takeover: the model watches that it does not get in.
    async fn intrude(&mut self) {
        let other = (self.in_charge + 1) % self.machines.len();
        if self.running[other].is_some() {
            return;
        }
        self.start(other, false);
        self.nap(SECOND, MINUTE).await;
        if self.status(other) != Some(Status::Opening) {
            self.site.journal.fault("driver", "operator: second server");
        }
        self.crash(other, Crash::ProcessKill);
    }
}

/// A buffer store that knows itself as another image's, and holds something.
fn another_images_store(on_files: bool) -> DiskCopy {
    let other = ImageId::parse("disk1").expect("a valid name");
    let metadata = BufferMetadata {
        buffer_store: BufferStoreId(1),
        image: other.clone(),
        incarnation: None,
        confirmed: None,
        pending: Vec::new(),
        last_lsn: Lsn(0),
        published: None,
    };
    let at = RecordRef {
        first: PageNumber(0),
        lsn: Lsn(1),
    };
    let run = PageRun::Data(Bytes::from(vec![1; 1 << 16]));
    let batch = BufferBatch {
        last_lsn: Lsn(1),
        records: vec![BufferRecord { at, run }],
    };
    let disk = match on_files {
        true => Disk::Files(MemoryFiles::new()),
        false => Disk::Records(MemoryBufferStores::new()),
    };
    let random = Arc::new(RandomStream::new(1, "another image's store"));
    let make = async {
        let opened = disk.open(&other, None, &random, Duration::ZERO).await?;
        opened.store.put_metadata(metadata.encode()).await?;
        opened.store.commit(batch).await
    };
    make.now_or_never()
        .expect("stores in memory do not wait")
        .expect("nothing is scripted to fail");
    disk.copy(&other).expect("it was made")
}
