//! Requests under way, and what their acknowledgements promise.

use std::collections::BTreeMap;

use mvps_core::engine::{Durability, EngineError};
use mvps_core::env::{BufferBatch, PageRun};
use mvps_core::format::manifest::ImageState;
use mvps_core::ids::Lsn;

use super::content::{Effect, Pages, apply, normal, reach};
use super::operation::{Operation, OperationId};
use super::state::{Model, State};
use crate::journal;

/// What an acknowledgement has to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// The tenure's (protocol §3.8).
    Tenure,
    /// None.
    None,
}

impl Model {
    /// A number that no other operation has.
    pub fn next_operation(&self) -> OperationId {
        let mut state = self.state();
        state.next_operation += 1;
        OperationId(state.next_operation)
    }

    /// How many operations there were.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().next_operation
    }

    /// A plain request is sent.
    pub fn submitted(&self, id: OperationId, server: &str, effects: Vec<Effect>) {
        let effects = effects.into_iter();
        let effects = effects.flat_map(|effect| self.within_areas(effect));
        let mut state = self.state();
        let operation = Operation {
            server: server.to_owned(),
            effects: effects.collect(),
            submitted: true,
            sent_after: state.disk(server).committed,
            ..Operation::default()
        };
        state.begin(id, operation);
    }

    /// A transaction is about to be begun.
    pub fn transaction(&self, id: OperationId, server: &str) {
        let operation = Operation {
            server: server.to_owned(),
            transaction: true,
            ..Operation::default()
        };
        self.state().begin(id, operation);
    }

    /// A transaction did something.
    pub fn transaction_does(&self, id: OperationId, effect: Effect) {
        let mut state = self.state();
        let operation = state.operations.get_mut(&id.0).expect("it was begun");
        operation.effects.extend(self.within_areas(effect));
    }

    /// A transaction is sent to be committed.
    pub fn commits(&self, id: OperationId) {
        let mut state = self.state();
        let server = state.operations[&id.0].server.clone();
        let committed = state.disk(&server).committed;
        let operation = state.operations.get_mut(&id.0).expect("it was begun");
        operation.submitted = true;
        operation.sent_after = committed;
    }

    /// Nothing of the operation may take effect any more.
    pub fn over(&self, id: OperationId) {
        let mut state = self.state();
        if let Some(operation) = state.operations.get_mut(&id.0) {
            operation.over = true;
        }
    }

    /// A flush is sent.
    pub fn flush_sent(&self, id: OperationId, server: &str) {
        let mut state = self.state();
        let branch = state.branch_of(server);
        let floor = branch.map_or(Lsn(0), |id| state.history.branch(id).acknowledged);
        let operation = Operation {
            server: server.to_owned(),
            floor,
            over: true,
            ..Operation::default()
        };
        state.operations.insert(id.0, operation);
    }

    /// The flush, or the checkpoint, waits for the object store: its client goes on waiting.
    pub fn waits_for_store(&self, id: OperationId) {
        let mut state = self.state();
        let Some(operation) = state.operations.get(&id.0) else {
            return;
        };
        let server = state.servers.get(&operation.server);
        let behind = server.map_or(0, |server| server.unlanded_bytes);
        if let Some(operation) = state.operations.get_mut(&id.0) {
            operation.wants_store_since = Some((journal::now(), behind));
        }
    }

    /// Whether a change was sent to `server`, and is neither committed nor answered.
    pub fn waits_for_commit(&self, server: &str) -> bool {
        let state = self.state();
        let mut operations = state.operations.values();
        operations.any(|it| it.server == server && it.submitted && !it.over && it.lsn.is_none())
    }

    /// A batch was applied to the disk of `server`.
    pub fn committed(&self, server: &str, batch: &BufferBatch) {
        let mut commits: BTreeMap<Lsn, Pages> = BTreeMap::new();
        for record in &batch.records {
            let pages = commits.entry(record.at.lsn).or_default();
            let first = record.at.first.0;
            match &record.run {
                PageRun::Hole { pages: count } => {
                    let holes = self.areas.cut(first..first + count);
                    pages.extend(holes.map(|page| (page, None)));
                }
                PageRun::Data(data) => {
                    let size = self.page_size.bytes();
                    let chunks = (0..data.len()).step_by(size).zip(first..);
                    pages
                        .extend(chunks.map(|(at, page)| (page, normal(data.slice(at..at + size)))));
                }
            }
        }
        let mut state = self.state();
        for (lsn, pages) in commits {
            self.commit(&mut state, server, lsn, &pages);
        }
        state.disk(server).committed = batch.last_lsn;
    }

    fn commit(&self, state: &mut State, server: &str, lsn: Lsn, pages: &Pages) {
        let Some(branch) = state.branch_of(server) else {
            self.journal.fail(
                "1 (history)",
                format_args!("{server} commits LSN {lsn} before it was opened"),
            );
        };
        if state.history.last(branch).is_some_and(|last| last >= lsn) {
            self.journal
                .fail("2 (prefix)", format_args!("LSN {lsn} was given out twice"));
        }
        let before = |page| state.history.page(branch, Lsn(lsn.0 - 1), page);
        // Looks before it computes: most requests are about other pages.
        let first = pages.keys().next().copied().unwrap_or(0);
        let last = pages.keys().next_back().copied().unwrap_or(u64::MAX);
        let reaches = |operation: &Operation| {
            let reach = reach(&operation.effects, self.page_size);
            reach.is_some_and(|(from, to)| from <= first && last <= to)
        };
        let matches = |operation: &Operation| {
            operation.server == server
                && operation.submitted
                && !operation.over
                && operation.lsn.is_none()
                && reaches(operation)
                && apply(&operation.effects, self.page_size, before) == *pages
        };
        let found = state.operations.iter().filter(|(_, one)| matches(one));
        let found: Vec<u64> = found.map(|(id, _)| *id).collect();
        // Several may have asked for the same; who read something must have read this.
        let serializable = |id: &&u64| self.conflict_of(state, **id, branch, lsn).is_none();
        let id = found.iter().find(serializable).or(found.first()).copied();
        let id = id.or_else(|| self.reassign(state, server, (branch, lsn), pages));
        let Some(id) = id else {
            let numbers: Vec<u64> = pages.keys().copied().collect();
            let waiting: Vec<_> = state
                .operations
                .iter()
                .filter(|(_, one)| one.server == server && !one.over && one.lsn.is_none())
                .map(|(id, one)| format!("{id}: {}", describe(&one.effects)))
                .collect();
            self.journal.fail(
                "3 (atomicity)",
                format_args!(
                    "commit {lsn} of {server} of pages {numbers:?} is no request's effect: {waiting:#?}"
                ),
            );
        };
        self.journal.checked(3);
        self.check_handed_back(state, server, lsn);
        if let Some(offset) = self.conflict_of(state, id, branch, lsn) {
            self.journal.fail(
                "4 (isolation)",
                format_args!(
                    "transaction {id} committed as {lsn} on what it read at {offset} before"
                ),
            );
        }
        state.history.commit(branch, lsn, pages);
        let bytes = pages.len() * self.page_size.bytes();
        state.note_unlanded(server, lsn, bytes as u64);
        for (other, operation) in &mut state.operations {
            if operation.locked && operation.server == server && *other != id && !operation.over {
                operation.lock_broken = Some(lsn);
            }
        }
        let operation = state.operations.get_mut(&id).expect("it was found");
        operation.lsn = Some(lsn);
        operation.branch = Some(branch);
        if operation.transaction {
            self.journal.checked(4);
        }
        if let Some(broken) = operation.lock_broken {
            self.journal.fail(
                "4 (isolation)",
                format_args!(
                    "operation {id} holds the lock, yet {broken} was committed before {lsn}"
                ),
            );
        }
    }

    /// A request was answered well. `None` for a flush.
    pub fn acknowledged(&self, id: OperationId, durable: Option<Durability>) {
        self.acknowledged_by(id, durable, Gate::Tenure);
    }

    /// A checkpoint that was asked for is published. That is in the store, whoever has the image
    /// now: unlike a flush it needs no tenure.
    pub fn checkpoint_answered(&self, id: OperationId) {
        self.acknowledged_by(id, Some(Durability::ObjectStore), Gate::None);
    }

    fn acknowledged_by(&self, id: OperationId, durable: Option<Durability>, gate: Gate) {
        let mut state = self.state();
        let operation = state.operations.get(&id.0).expect("it was sent");
        let server = operation.server.clone();
        let effects = operation.effects.clone();
        let (mut lsn, floor) = (operation.lsn, operation.floor);
        let branch = state.branch_of(&server).expect("it serves");
        let changes = !apply(&effects, self.page_size, |_| None).is_empty();
        if changes && lsn.is_none() {
            lsn = self.exchange(&mut state, id, branch);
        }
        if changes && lsn.is_none() {
            self.journal.fail(
                "1 (acknowledged)",
                format_args!("operation {id:?} was acknowledged and never committed"),
            );
        }
        let held = match durable {
            None => state.disk(&server).committed,
            Some(Durability::Local) => state.disk(&server).synced,
            Some(Durability::ObjectStore) => state.history.branch(branch).landed,
        };
        let operation = state.operations.get_mut(&id.0).expect("it was sent");
        operation.answered_at = Some(held);
        lsn = lsn.map(|lsn| self.first_place(&mut state, id, branch, lsn));
        let reached = lsn.unwrap_or(floor);
        let acknowledged = &mut state.history.branch_mut(branch).acknowledged;
        *acknowledged = reached.max(*acknowledged);
        if let Some(durability) = durable {
            self.promise(&mut state, &server, reached, durability);
        }
        self.journal.checked(1);
        if gate == Gate::Tenure && (changes || durable.is_some()) {
            self.check_active_writer(&state, &server);
        }
        self.answered(&mut state, id);
    }

    fn promise(&self, state: &mut State, server: &str, lsn: Lsn, durability: Durability) {
        let branch = state.branch_of(server).expect("it serves");
        match durability {
            Durability::Local => {
                let synced = state.disk(server).synced;
                if synced < lsn {
                    self.journal.fail(
                        "1 (flushed)",
                        format_args!("{server} promised LSN {lsn}, but only {synced} is synced"),
                    );
                }
                let durable = &mut state.history.branch_mut(branch).durable;
                *durable = lsn.max(*durable);
            }
            Durability::ObjectStore => {
                let landed = state.history.branch(branch).landed;
                if landed < lsn {
                    self.journal.fail(
                        "1 (flushed)",
                        format_args!(
                            "{server} promised LSN {lsn} in the store, but {landed} has landed"
                        ),
                    );
                }
                let branch = state.history.branch_mut(branch);
                branch.durable = lsn.max(branch.durable);
                branch.durable_in_store = lsn.max(branch.durable_in_store);
            }
        }
    }

    /// After a server published that it handed the image back, it takes no commit (protocol §3.6).
    fn check_handed_back(&self, state: &State, server: &str, lsn: Lsn) {
        let tenure = state.servers[server].tenure;
        let newest = state.newest.as_ref();
        if newest.is_some_and(|it| it.state == ImageState::Clean && Some(it.tenure.id) == tenure) {
            self.journal.fail(
                "7 (fencing)",
                format_args!(
                    "{server} commits {lsn} after it published that it handed the image back"
                ),
            );
        }
    }

    /// A request was answered with an error.
    pub fn refused(&self, id: OperationId, error: &EngineError) {
        let mut state = self.state();
        let operation = state.operations.get_mut(&id.0).expect("it was sent");
        operation.over = true;
        operation.wants_store_since = None;
        let server = operation.server.clone();
        let (lsn, locked) = (operation.lsn, operation.locked);
        let (branch, during_rollback) = (operation.branch, operation.during_rollback);
        let unchanged = matches!(
            error,
            EngineError::Conflict
                | EngineError::Aborted { .. }
                | EngineError::TransactionTooLarge { .. }
                | EngineError::Invalid { .. }
        );
        let lsn = match lsn {
            Some(_) if unchanged && self.give_away(&mut state, id) => None,
            lsn => lsn,
        };
        // A rollback takes back what was committed and not answered yet, and then it is gone.
        let rolled_back = matches!(error, EngineError::Aborted { .. }) && during_rollback;
        match (unchanged, lsn, branch) {
            (true, Some(lsn), Some(branch)) if rolled_back => {
                self.journal.mark("a rollback took back a commit");
                state.taken_back.push((branch, lsn));
            }
            (true, Some(lsn), _) => self.journal.fail(
                "3 (atomicity)",
                format_args!("operation {id:?} was answered {error}, but was committed as {lsn}"),
            ),
            _ => {}
        }
        let is_lost = matches!(
            error,
            EngineError::Corrupt { .. } | EngineError::Unreadable { .. }
        );
        if is_lost && state.damaged {
            // What it must read to publish is damaged, or was however often it read it.
            state.disk(&server).struck = true;
        }
        if matches!(error, EngineError::Conflict) && locked {
            self.journal.fail(
                "4 (isolation)",
                format_args!("operation {id:?} holds the lock and meets a conflict"),
            );
        }
        if matches!(error, EngineError::Fenced { .. }) {
            let now = journal::now();
            let known = state.servers.get_mut(&server).expect("it was started");
            known.fenced.get_or_insert(now);
            let tenure = known.tenure;
            if tenure.is_some_and(|it| !state.superseded.contains_key(&it)) {
                self.journal.fail(
                    "11 (liveness)",
                    format_args!(
                        "{server} is the active writer, and takes itself for fenced: {error}"
                    ),
                );
            }
        }
    }
}

impl State {
    fn begin(&mut self, id: OperationId, mut operation: Operation) {
        let server = self.servers.get(&operation.server);
        operation.during_rollback = server.is_some_and(|it| it.rolling_back);
        self.operations.insert(id.0, operation);
    }
}

fn describe(effects: &[Effect]) -> String {
    let texts: Vec<String> = effects
        .iter()
        .map(|effect| match effect {
            Effect::Write(offset, data) => format!("write {offset}+{}", data.len()),
            Effect::Zero(offset, length) => format!("zero {offset}+{length}"),
            Effect::Trim(offset, length) => format!("trim {offset}+{length}"),
        })
        .collect();
    texts.join(", ")
}
