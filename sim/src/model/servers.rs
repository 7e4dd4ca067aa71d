//! Processes and their disks: what an opened image must hold, what a disk may forget.

use mvps_core::format::manifest::ImageState;
use mvps_core::ids::{Generation, Lsn, TenureId};

use super::operation::Operation;
use super::state::{Disk, Model, Server, machine_of};
use crate::journal;

impl Model {
    /// A process started.
    pub fn started(&self, server: &str) {
        let mut state = self.state();
        let known = Server {
            branch_at_start: state.branch_of(server),
            disk_at_start: state.disk(server).instance,
            ..Server::default()
        };
        state.servers.insert(server.to_owned(), known);
    }

    /// Every process of `machine` ended.
    pub fn crashed(&self, machine: &str, power_cut: bool) {
        let mut state = self.state();
        state.disk(machine).power_cut |= power_cut;
        let lives = |operation: &Operation| machine_of(&operation.server) != machine;
        state.operations.retain(|_, operation| lives(operation));
        for (name, server) in &mut state.servers {
            server.ended |= machine_of(name) == machine;
        }
        state.answered_interchangeable.retain(lives);
    }

    /// The machine goes on after a pause.
    pub fn resumed(&self, machine: &str) {
        let now = journal::now();
        let mut state = self.state();
        let disk = state.disk(machine);
        disk.resumed = Some(now);
        disk.paused = false;
    }

    /// The buffer store of `machine` is gone.
    pub fn lost(&self, machine: &str) {
        let mut state = self.state();
        let disk = Disk::new(&mut state.next_disk);
        *state.disk(machine) = disk;
    }

    /// The buffer store of `machine` as it is now.
    #[must_use]
    pub fn copied(&self, machine: &str) -> Disk {
        let mut state = self.state();
        let copy = state.disk(machine).clone();
        let cuts = |id| state.history.branch(id).cuts.len();
        Disk {
            cuts: copy.branch.map_or(0, cuts),
            ..copy
        }
    }

    /// Whether everything in the copy is still history: what was lost since, and is in the copy,
    /// the model has forgotten.
    #[must_use]
    pub fn remembers(&self, copy: &Disk) -> bool {
        let state = self.state();
        let Some(branch) = copy.branch else {
            return true;
        };
        let later = state.history.branch(branch).cuts.iter().skip(copy.cuts);
        later.into_iter().all(|cut| *cut >= copy.committed)
    }

    /// An old copy took the place of the buffer store of `machine`.
    pub fn rolled_back(&self, machine: &str, copy: &Disk) {
        let mut state = self.state();
        let disk = state.disk(machine);
        if disk.instance != copy.instance {
            // That was lost meanwhile, and is back.
            let (power_cut, resumed) = (disk.power_cut, disk.resumed);
            *disk = Disk {
                power_cut,
                resumed,
                ..copy.clone()
            };
        }
        disk.rolled_back = true;
    }

    /// A client of `server` begins to compare with an earlier version, or has ended that.
    pub fn compares(&self, server: &str, begins: bool) {
        if let Some(known) = self.state().servers.get_mut(server) {
            known.comparing = match begins {
                true => known.comparing + 1,
                false => known.comparing.saturating_sub(1),
            };
        }
    }

    /// Bytes of the disk of `machine` changed: what nothing on it tells to have been synced may be
    /// taken for torn.
    pub fn rotted(&self, machine: &str) {
        self.state().disk(machine).rolled_back = true;
    }

    /// Another image's buffer store took the place of that of `machine`.
    pub fn swapped(&self, machine: &str) {
        let mut state = self.state();
        let disk = Disk::new(&mut state.next_disk);
        *state.disk(machine) = Disk {
            foreign: true,
            ..disk
        };
    }

    /// Whether the disk of `machine` belongs to the history that the newest manifest continues.
    #[must_use]
    pub fn owns_newest(&self, machine: &str) -> bool {
        let mut state = self.state();
        let newest = state.newest.as_ref().map(|it| (it.tenure.id, it.lsn));
        let own = state.disk(machine).branch;
        newest.is_some_and(|(tenure, lsn)| {
            let branch = state.tenures[&tenure];
            Some(state.history.canonical(branch, lsn)) == own
        })
    }

    /// `server` opened the buffer store, whose last commit is `last`. It knows of LSNs up to
    /// `knows`, and holds so much content, if it holds records.
    pub fn recovered(&self, server: &str, last: Lsn, knows: Lsn, held_bytes: Option<u64>) {
        let mut state = self.state();
        let disk = state.disk(server);
        disk.recovered = last;
        disk.knows = knows;
        disk.held_bytes = held_bytes;
        disk.opened_by = Some(server.to_owned());
        disk.struck = false;
    }

    /// `server` says that the image has `bytes`.
    pub fn size_told(&self, server: &str, bytes: u64) {
        let mut state = self.state();
        if !state.is_active_writer(server) {
            return;
        }
        let newest = state.newest.as_ref().expect("it has an active writer");
        let (life, published) = (newest.incarnation, newest.size_bytes);
        let told = state.size_told.filter(|(of, _)| *of == life);
        let told = told.map_or(0, |(_, bytes)| bytes);
        self.journal.checked(7);
        if bytes > published || bytes < told {
            self.journal.fail(
                "7 (size)",
                format_args!(
                    "{server} says {bytes} bytes; {published} are published, {told} were told before"
                ),
            );
        }
        state.size_told = Some((life, bytes));
    }

    /// `server` opened the image with everything up to `lsn`. What its disk lost of that and nobody
    /// was promised is not in it: a rollback that was not published gave out an LSN above.
    pub fn opened(&self, server: &str, tenure: TenureId, lsn: Lsn) {
        let mut state = self.state();
        let Some(branch) = state.tenures.get(&tenure).copied() else {
            self.journal.fail(
                "7 (fencing)",
                format_args!("{server} opened with a tenure that never landed"),
            );
        };
        let known = state.servers.get_mut(server).expect("it was started");
        known.tenure = Some(tenure);
        let disk = std::mem::take(state.disk(server));
        if disk.foreign {
            self.journal.fail(
                "2 (prefix)",
                format_args!("{server} opened with another image's buffer store"),
            );
        }
        // A rollback that landed is where it goes on.
        let known = state.servers.get_mut(server).expect("it was started");
        known.rolled_from = None;
        let promised = state.history.branch(branch);
        let (acknowledged, durable) = (promised.acknowledged, promised.durable);
        let floor = match (disk.rolled_back, disk.power_cut) {
            (true, _) => Lsn(0),
            (false, true) => durable,
            (false, false) => acknowledged,
        };
        let floor = floor.max(promised.landed).max(promised.durable_in_store);
        let continues = disk.branch == Some(branch);
        let held = match continues {
            true => lsn.min(disk.recovered.max(promised.landed)),
            false => lsn,
        };
        if held < floor {
            self.journal.fail(
                "1 (survival)",
                format_args!("{server} opened at LSN {held}, but {floor} was promised"),
            );
        }
        self.journal.checked(1);
        self.journal.checked(6);
        if held < acknowledged {
            self.journal.mark("an unsynced tail was lost");
        }
        self.check_taken_back(&state, server, branch, held);
        if held > state.history.branch(branch).landed {
            state.note_unlanded(server, held, disk.held_bytes.unwrap_or_default());
        }
        let gone = state.history.truncate(branch, held);
        let synced = if disk.power_cut || !continues {
            lsn
        } else {
            disk.synced.min(lsn)
        };
        *state.disk(server) = Disk {
            instance: disk.instance,
            branch: Some(branch),
            committed: lsn,
            synced,
            resumed: disk.resumed,
            struck: disk.struck,
            ..Disk::default()
        };
        self.journal.note(
            server,
            format_args!("opened on {branch:?} at LSN {lsn}, {gone} commits lost"),
        );
    }

    /// `server` was not let in. Whoever began the newest tenure is let in with the same disk.
    pub fn not_let_in(&self, server: &str, reason: &str) {
        let mut state = self.state();
        let disk = state.disk(server);
        let (instance, rolled_back) = (disk.instance, disk.rolled_back);
        let newest = state.newest.as_ref().map(|it| it.tenure.id);
        let began = newest.and_then(|tenure| state.begun_by.get(&tenure).copied());
        if began == Some(instance) && !rolled_back {
            self.journal.fail(
                "11 (liveness)",
                format_args!(
                    "{server} is not let in, and its disk is the active writer's: {reason}"
                ),
            );
        }
        self.journal.checked(11);
    }

    /// Whether there is such an image now.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let state = self.state();
        let newest = state.newest.as_ref();
        newest.is_some_and(|it| !matches!(it.state, ImageState::Tombstone | ImageState::Abandoned))
    }

    /// Whether `server` handed the image back, if it ever was its active writer.
    #[must_use]
    pub fn handed_back(&self, server: &str) -> bool {
        let state = self.state();
        let tenure = state.servers.get(server).and_then(|it| it.tenure);
        let newest = state.newest.as_ref();
        tenure.is_none_or(|tenure| {
            newest.is_some_and(|it| it.state == ImageState::Clean && it.tenure.id == tenure)
        })
    }

    /// Somebody got, or may get, damaged bytes.
    pub fn damaged(&self) {
        self.state().damaged = true;
    }

    /// A sync of the disk that covers `lsn` ended.
    pub fn synced(&self, server: &str, lsn: Lsn) {
        let mut state = self.state();
        let disk = state.disk(server);
        disk.synced = disk.synced.max(lsn);
    }

    /// `server` is about to drop a generation whose last commit is `last`.
    pub fn dropping(&self, server: &str, generation: Generation, last: Lsn) {
        let mut state = self.state();
        // Opening drops what its own open publication covers before it returns.
        let Some(newest) = state.newest.clone() else {
            return;
        };
        self.journal.checked(1);
        let branch = state.branch_of(server);
        let landed = branch.map_or(newest.lsn, |id| state.history.branch(id).landed);
        if last > landed {
            self.journal.fail(
                "1 (survival)",
                format_args!(
                    "{server} drops generation {generation} up to LSN {last}, but {landed} has landed"
                ),
            );
        }
    }
}
