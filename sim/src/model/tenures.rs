//! Whose history a manifest that landed as the newest continues, and whether its publisher may
//! (oracle 7). A tenure begins by opening, takeover, growth, deletion, rollback, or with the image.

use mvps_core::format::manifest::{ImageState, Manifest};
use mvps_core::ids::{Lsn, Version};

use super::content::Pages;
use super::history::BranchId;
use super::published::{Landed, retains, same_map};
use super::state::{Model, State, machine_of};
use crate::journal;

impl Model {
    /// Checks who publishes, and returns the history that this continues.
    pub(super) fn check_tenure(
        &self,
        state: &mut State,
        client: &str,
        before: Option<&Manifest>,
        manifest: &Manifest,
        base: Option<Pages>,
    ) -> BranchId {
        let tenure = manifest.tenure;
        self.journal.checked(7);
        if let Some(branch) = state.tenures.get(&tenure.id) {
            if state.superseded.contains_key(&tenure.id)
                || before.is_some_and(|it| it.tenure != tenure)
            {
                self.journal.fail(
                    "7 (fencing)",
                    format_args!("{client} published under {tenure}, which was superseded"),
                );
            }
            if before.is_some_and(|it| it.publication > manifest.publication) {
                self.journal.fail(
                    "7 (fencing)",
                    format_args!("{client}: the publication counter went back"),
                );
            }
            return *branch;
        }
        if before.is_some_and(|it| it.tenure.epoch >= tenure.epoch) {
            self.journal.fail(
                "7 (fencing)",
                format_args!("{client} began {tenure}, which is not above the last epoch"),
            );
        }
        let branch = match self.begin_otherwise(state, client, before, manifest, base) {
            Some(branch) => branch,
            None => self.begin_tenure(state, client, before, manifest),
        };
        state.tenures.insert(tenure.id, branch);
        state.begun_by_process.insert(tenure.id, client.to_owned());
        if let Some(server) = state.servers.get(client) {
            state.begun_by.insert(tenure.id, server.disk_at_start);
        }
        if let Some(before) = before {
            state.superseded.insert(before.tenure.id, journal::now());
        }
        branch
    }

    fn begin_tenure(
        &self,
        state: &mut State,
        client: &str,
        before: Option<&Manifest>,
        manifest: &Manifest,
    ) -> BranchId {
        let Some(before) = before else {
            return state.history.begin_anew(None, Pages::new(), manifest.lsn);
        };
        let continued = state.tenures[&before.tenure.id];
        self.check_buffer(state, client, before);
        if manifest.state == ImageState::Clean && manifest.takeovers.len() > before.takeovers.len()
        {
            self.journal.mark("a takeover landed");
            return continued;
        }
        let disk = state.servers.get(client).map(|it| it.disk_at_start);
        let own = state.servers.get(client).and_then(|it| it.branch_at_start);
        // A process may have died between its open publication and the end of its opening.
        if own == Some(continued) || disk == state.begun_by.get(&before.tenure.id).copied() {
            return continued;
        }
        // Nothing was committed since this disk was fenced: it was adopted.
        let branch = state.history.canonical(continued, before.lsn);
        if own == Some(branch) {
            return branch;
        }
        // It was adopted after other active writers that published nothing.
        let last = |branch: BranchId| state.history.last_commit(branch, before.lsn);
        let shared = |own: &BranchId| last(*own) == last(branch);
        let adopted = own.filter(shared);
        // Somebody else's history: everything of it must be published, or its loss declared.
        let left = state.history.branch(branch);
        let declared = before
            .takeovers
            .last()
            .is_some_and(|takeover| takeover.at_lsn == before.lsn);
        let lost = left.acknowledged > before.lsn;
        if before.state != ImageState::Clean {
            self.journal.fail(
                "2 (loss)",
                format_args!(
                    "{client} opened an image whose active writer is {}",
                    before.tenure
                ),
            );
        }
        if lost && !declared || left.durable_in_store > before.lsn {
            self.journal.fail(
                "2 (loss)",
                format_args!(
                    "{client} continues from LSN {}, but {} was acknowledged and {} is promised",
                    before.lsn, left.acknowledged, left.durable_in_store
                ),
            );
        }
        if lost {
            self.journal.mark("a takeover gave up acknowledged commits");
        }
        let fork = |state: &mut State| state.history.fork(Some((branch, before.lsn)));
        adopted.unwrap_or_else(|| fork(state))
    }

    /// A buffer store that holds something, or whose server never handed the image back, knows
    /// everything that is published (protocol §2.2): an old copy of it does not.
    fn check_buffer(&self, state: &State, client: &str, before: &Manifest) {
        let disk = state.disks.get(machine_of(client));
        let Some(disk) = disk.filter(|it| it.opened_by.as_deref() == Some(client)) else {
            return;
        };
        let must_know = match before.state {
            ImageState::Active => true,
            ImageState::Clean => disk.held_bytes.is_some(),
            ImageState::Tombstone | ImageState::Abandoned => false,
        };
        self.journal.checked(2);
        if must_know && disk.knows < before.lsn {
            self.journal.fail(
                "2 (outdated)",
                format_args!(
                    "{client} opened with a buffer store that knows LSN {}, and {} is published",
                    disk.knows, before.lsn
                ),
            );
        }
    }

    /// A tenure that does not go on where the last one was: a clone's, a deleted image's, that of
    /// an image made anew, that of a rollback.
    fn begin_otherwise(
        &self,
        state: &mut State,
        client: &str,
        before: Option<&Manifest>,
        manifest: &Manifest,
        base: Option<Pages>,
    ) -> Option<BranchId> {
        if let Some(base) = base {
            self.journal.mark("a clone appeared");
            return Some(state.history.begin_anew(None, base, manifest.lsn));
        }
        let before = before?;
        let was_deleted = matches!(before.state, ImageState::Tombstone | ImageState::Abandoned);
        match manifest.state {
            ImageState::Abandoned => {
                return Some(state.history.begin_anew(None, Pages::new(), manifest.lsn));
            }
            ImageState::Tombstone => {
                self.journal.mark("an image was deleted");
                return Some(state.tenures[&before.tenure.id]);
            }
            ImageState::Active | ImageState::Clean => {}
        }
        if manifest.incarnation != before.incarnation {
            if !was_deleted {
                self.journal.fail(
                    "7 (fencing)",
                    format_args!("{client} made the image anew, and it was not deleted"),
                );
            }
            self.journal.mark("an image was made anew");
            return Some(state.history.begin_anew(None, Pages::new(), manifest.lsn));
        }
        let took_over = manifest.takeovers.len() > before.takeovers.len();
        if took_over || manifest.lsn == before.lsn {
            return None;
        }
        Some(self.begin_rollback(state, client, before, manifest))
    }

    /// The image is again what it was in a version that is retained.
    fn begin_rollback(
        &self,
        state: &mut State,
        client: &str,
        before: &Manifest,
        manifest: &Manifest,
    ) -> BranchId {
        let fits = |it: &&Landed| {
            it.manifest.incarnation == manifest.incarnation
                && retains(before, it.manifest.version)
                && same_map(&it.manifest, manifest)
        };
        let to = state.published.versions().find(fits);
        let Some(place) = to.map(|it| (it.branch, it.manifest.lsn)) else {
            self.journal.fail(
                "7 (fencing)",
                format_args!(
                    "{client} published version {} of {} at LSN {}: no retained version",
                    manifest.version, self.image, manifest.lsn
                ),
            );
        };
        let before_state = before.state;
        let branch = state
            .history
            .begin_anew(Some(place), Pages::new(), manifest.lsn);
        let Some(server) = state.servers.get(client).filter(|it| it.tenure.is_some()) else {
            self.journal.mark("an image at rest was rolled back");
            if before_state != ImageState::Clean {
                self.journal.fail(
                    "7 (fencing)",
                    format_args!("{client} rolled back an image that has an active writer"),
                );
            }
            return branch;
        };
        if server.tenure != Some(before.tenure.id) {
            self.journal.fail(
                "7 (fencing)",
                format_args!("{client} rolled back an image that is not its own"),
            );
        }
        self.journal.mark("a running image was rolled back");
        self.move_server(state, client, branch, manifest);
        branch
    }

    /// The server goes on at the rollback; what it had committed since is gone.
    fn move_server(&self, state: &mut State, client: &str, branch: BranchId, to: &Manifest) {
        let was = state.branch_of(client);
        let server = state.servers.get_mut(client).expect("it has a tenure");
        server.tenure = Some(to.tenure.id);
        server.rolled_from = was;
        let instance = server.disk_at_start;
        let disk = state.disk(client);
        if disk.instance == instance {
            disk.branch = Some(branch);
            disk.committed = to.lsn;
            disk.synced = to.lsn;
        }
    }

    /// `server` is asked to roll back: what waits there may be refused, though it is committed.
    pub fn rollback_asked(&self, server: &str) {
        let mut state = self.state();
        let known = state.servers.get_mut(server).expect("it was started");
        known.rolling_back = true;
        let operations = state.operations.values_mut();
        for operation in operations.filter(|it| it.server == server) {
            operation.during_rollback = true;
        }
    }

    /// `server` did not roll back: nothing was taken back.
    pub fn rollback_refused(&self, server: &str) {
        let mut state = self.state();
        let known = state.servers.get_mut(server).expect("it was started");
        known.rolling_back = false;
        let branch = state.branch_of(server);
        let committed = state.disk(server).committed;
        if let Some(branch) = branch {
            self.check_taken_back(&state, server, branch, committed);
        }
    }

    /// What `server` has at (`branch`, `lsn`) is without the commits that were taken back.
    pub(super) fn check_taken_back(&self, state: &State, server: &str, branch: BranchId, lsn: Lsn) {
        let is_there = |it: &&(BranchId, Lsn)| state.history.includes(branch, lsn, **it);
        self.journal.checked(3);
        if let Some((_, there)) = state.taken_back.iter().find(is_there) {
            self.journal.fail(
                "3 (atomicity)",
                format_args!(
                    "{server} has commit {there}, of which a client was told that a rollback took \
                     it back"
                ),
            );
        }
    }

    /// `server` said that it rolled back: every read that is sent from now on sees it.
    pub fn rolled_back_to(&self, server: &str, lsn: Lsn) {
        let mut state = self.state();
        let known = state.servers.get_mut(server).expect("it was started");
        known.rolled_from = None;
        known.rolling_back = false;
        let branch = state.branch_of(server);
        let newest = state.newest.as_ref();
        let landed = branch.map(|it| state.history.branch(it).landed);
        if landed < Some(lsn) || newest.is_none() {
            self.journal.fail(
                "1 (publication)",
                format_args!("{server} rolled back to LSN {lsn}, and {landed:?} has landed"),
            );
        }
    }

    /// Where `server` is, with everything that was acknowledged until now.
    #[must_use]
    pub fn acknowledged_of(&self, server: &str) -> Option<(BranchId, Lsn)> {
        let mut state = self.state();
        let branch = state.branch_of(server)?;
        Some((branch, state.history.branch(branch).acknowledged))
    }

    /// A rollback of `server` can be undone: everything up to `kept` is in `undo`, unless that was
    /// forgotten by now.
    pub fn rollback_kept(&self, server: &str, undo: Version, (branch, lsn): (BranchId, Lsn)) {
        let state = self.state();
        self.journal.checked(1);
        let Some(landed) = state.published.version(undo) else {
            return;
        };
        if landed.branch != branch || landed.manifest.lsn < lsn {
            self.journal.fail(
                "1 (acknowledged)",
                format_args!(
                    "{server} rolled back after a checkpoint, and version {undo} has LSN {} of \
                     {:?}, but {lsn} of {branch:?} was acknowledged",
                    landed.manifest.lsn, landed.branch
                ),
            );
        }
        self.journal.mark("a rollback can be undone");
    }
}
