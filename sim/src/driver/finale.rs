//! The end of a seed: faults are off, and everything has to come right (oracle 11).

use std::time::Duration;

use madsim::time::sleep;
use mvps_core::env::memory::Crash;

use super::Driver;
use crate::workload::orders::Status;

/// Longest time to get in, with zombies about and an operator who helps.
const OPEN_LIMIT: Duration = Duration::from_mins(30);

/// Longest time to close, beside that for the bytes that have to land first.
const CLOSE_LIMIT: Duration = Duration::from_mins(10);

/// Until every request that was ever sent has landed.
const ZOMBIES_LAND: Duration = Duration::from_hours(3);

impl Driver {
    /// Everything comes right.
    pub async fn finish(&mut self) {
        self.note(format_args!("faults off"));
        self.site.store.heal();
        for machine in 0..self.machines.len() {
            self.machines[machine].disk.heal();
            self.resume(machine);
            if machine != self.in_charge {
                self.crash(machine, Crash::ProcessKill);
            }
        }
        self.crash(self.in_charge, Crash::PowerCut);
        if self.hopeless[self.in_charge] {
            self.give_up_disk().await;
        }
        self.serve_well().await;
        // Another machine with an empty buffer store goes on without a takeover.
        self.in_charge = (self.in_charge + 1) % self.machines.len();
        self.lose_buffer(self.in_charge);
        self.serve_well().await;
        sleep(ZOMBIES_LAND).await;
        self.serve_well().await;
        self.note(format_args!("the end"));
    }

    /// Gets in, serves for a while, closes.
    async fn serve_well(&mut self) {
        self.refusals = 0;
        let began = crate::journal::now();
        loop {
            self.start(self.in_charge, true);
            let settled = |status: &Status| *status != Status::Opening;
            self.wait_for(OPEN_LIMIT, settled).await;
            match self.status(self.in_charge) {
                Some(Status::Serving) => break,
                Some(Status::Refused(_)) if self.refusals < 3 => {
                    self.crash(self.in_charge, Crash::ProcessKill);
                    self.help_in().await;
                }
                other => {
                    let took = crate::journal::now().saturating_sub(began);
                    self.site.journal.fail(
                        "11 (liveness)",
                        format_args!("the image does not open: {other:?} after {took:?}"),
                    );
                }
            }
        }
        self.nap(Duration::from_secs(1), Duration::from_secs(90))
            .await;
        let running = self.running[self.in_charge].as_ref();
        let running = running.expect("it serves");
        let backlog = self
            .site
            .model
            .backlog_of(&self.machines[self.in_charge].name);
        // A server that ended does not listen.
        let _ = running.stop.send(true);
        let ended = |status: &Status| *status != Status::Serving;
        self.wait_for(CLOSE_LIMIT + backlog, ended).await;
        match self.status(self.in_charge) {
            Some(Status::Closed) => {}
            other => self.site.journal.fail(
                "11 (liveness)",
                format_args!("the image does not close: {other:?}"),
            ),
        }
        self.site.journal.checked(11);
        self.crash(self.in_charge, Crash::ProcessKill);
    }
}
