//! What reads may return.

use std::time::Duration;

use bytes::Bytes;
use mvps_core::engine::{EngineError, Extent};
use mvps_core::ids::{Lsn, Version};

use super::content::{Effect, apply, is_zero};
use super::history::BranchId;
use super::operation::{OperationId, size_of};
use super::state::{Model, State};
use crate::journal;

/// How long after a request to the store went wrong a server may not know that it is fenced.
pub(super) const TROUBLE_TIME: Duration = Duration::from_secs(60);

/// What a read may see: everything acknowledged before it was sent, and no more than what is
/// committed when it returns.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    from: Lsn,
    branch: Option<BranchId>,
    /// The server may not have moved to a rollback yet, and serve this.
    also: Option<BranchId>,
}

impl Model {
    /// A read, or the begin of a transaction, is sent to `server`.
    pub fn read_sent(&self, server: &str) -> Window {
        let mut state = self.state();
        let branch = state.branch_of(server);
        let known = state.servers.get(server);
        Window {
            from: branch.map_or(Lsn(0), |id| state.history.branch(id).acknowledged),
            branch,
            also: known.and_then(|it| it.rolled_from),
        }
    }

    /// A read of an image that was opened just now: exactly what it was opened with.
    pub fn read_back(&self, server: &str) -> Window {
        let mut state = self.state();
        let disk = state.disk(server);
        Window {
            from: disk.committed,
            branch: disk.branch,
            also: None,
        }
    }

    /// A read returned `bytes`.
    pub fn read_returned(&self, server: &str, window: Window, offset: u64, bytes: &Bytes) {
        let mut state = self.state();
        let positions = Self::places_of(&mut state, server, window);
        let explained = positions
            .iter()
            .any(|(branch, lsn)| self.holds(&state, *branch, *lsn, &[], offset, bytes));
        if !explained {
            let branch = state.branch_of(server).expect("it serves");
            let to = state.disk(server).committed;
            let place = self.first_difference(&state, branch, to, offset, bytes);
            self.journal.fail(
                "5 (reads)",
                format_args!(
                    "{server} read {}+{}, which no LSN of {positions:?} holds: {place}",
                    offset,
                    bytes.len()
                ),
            );
        }
        self.journal.checked(5);
        if state.damaged {
            self.journal.checked(12);
        }
    }

    /// `server` said what differs from version `base` from `offset` on. What it calls unchanged is
    /// so at one place of the window.
    pub fn changes_returned(
        &self,
        server: &str,
        window: Window,
        offset: u64,
        extents: &[Extent],
        base: Version,
    ) {
        let mut state = self.state();
        let positions = Self::places_of(&mut state, server, window);
        let Some(landed) = state.published.version(base) else {
            // It was forgotten since.
            return;
        };
        let (on, at_lsn) = (landed.branch, landed.manifest.lsn);
        let size = size_of(self.page_size);
        let mut same = Vec::new();
        let mut at = offset;
        for extent in extents {
            let end = at + extent.length_bytes;
            if !extent.is_set {
                same.extend(self.areas.cut(at / size..end.div_ceil(size)));
            }
            at = end;
        }
        let page = |(branch, lsn), page: u64| state.history.page(branch, lsn, page);
        let differs = |place: (BranchId, Lsn)| {
            let mut pages = same.iter().copied();
            pages.find(|it| page(place, *it) != page((on, at_lsn), *it))
        };
        self.journal.checked(5);
        if positions.iter().all(|place| differs(*place).is_some()) {
            self.journal.fail(
                "5 (extents)",
                format_args!(
                    "{server} says that page {:?} is as in version {base}, and it is not",
                    positions.last().and_then(|place| differs(*place))
                ),
            );
        }
    }

    /// Where a reader of `server` may have been.
    pub(super) fn places_of(
        state: &mut State,
        server: &str,
        window: Window,
    ) -> Vec<(BranchId, Lsn)> {
        let branch = state.branch_of(server).expect("it serves");
        let to = state.disk(server).committed;
        places(state, window, branch, to)
    }

    /// A read of `server` failed. What nothing damaged can be read, as long as the image is the
    /// server's; and a fenced writer says so, unless it cannot learn that it is one.
    pub fn not_read(&self, server: &str, error: &EngineError) {
        let state = self.state();
        let is_lost = matches!(
            error,
            EngineError::Unreadable { .. } | EngineError::Corrupt { .. }
        );
        let lately = journal::now().saturating_sub(TROUBLE_TIME);
        let in_trouble = state.trouble.get(server).is_some_and(|at| *at >= lately);
        if is_lost && !state.damaged && !in_trouble {
            self.journal.fail(
                "5 (reads)",
                format_args!("{server} cannot read what nothing damaged: {error}"),
            );
        }
    }

    /// A transaction was begun, or continues on a newer view since it has the lock.
    pub fn snapshot(&self, id: OperationId, window: Window, locked: bool) {
        let mut state = self.state();
        let server = state.operations[&id.0].server.clone();
        let branch = state.branch_of(&server).expect("it serves");
        let to = state.disk(&server).committed;
        let snapshots = places(&state, window, branch, to);
        let operation = state.operations.get_mut(&id.0).expect("it was begun");
        operation.snapshots = snapshots;
        operation.locked = locked;
    }

    /// A transaction read `bytes`.
    pub fn transaction_read(&self, id: OperationId, offset: u64, bytes: &Bytes) {
        let mut state = self.state();
        let operation = &state.operations[&id.0];
        let (effects, count) = (operation.effects.clone(), operation.effects.len());
        let mut snapshots = operation.snapshots.clone();
        snapshots
            .retain(|(branch, lsn)| self.holds(&state, *branch, *lsn, &effects, offset, bytes));
        if snapshots.is_empty() {
            self.journal.fail(
                "4 (isolation)",
                format_args!("what transaction {id:?} read at {offset} is in no snapshot"),
            );
        }
        let operation = state.operations.get_mut(&id.0).expect("it was begun");
        operation.snapshots = snapshots;
        self.journal.checked(4);
        operation.reads.push((offset, bytes.clone(), count));
    }

    /// Where a transaction that is committed at `lsn` read something else than what is there.
    pub(super) fn conflict_of(
        &self,
        state: &State,
        id: u64,
        branch: BranchId,
        lsn: Lsn,
    ) -> Option<u64> {
        let operation = &state.operations[&id];
        let differs = |(offset, bytes, count): &&(u64, Bytes, usize)| {
            let effects = &operation.effects[..*count];
            !self.holds(state, branch, Lsn(lsn.0 - 1), effects, *offset, bytes)
        };
        let conflict = operation.reads.iter().find(differs);
        conflict.map(|(offset, ..)| *offset)
    }

    /// Whether `bytes` at `offset` are what `effects` over the image at `lsn` give.
    pub(super) fn holds(
        &self,
        state: &State,
        branch: BranchId,
        lsn: Lsn,
        effects: &[Effect],
        offset: u64,
        bytes: &Bytes,
    ) -> bool {
        let own = apply(effects, self.page_size, |page| {
            state.history.page(branch, lsn, page)
        });
        let size = size_of(self.page_size);
        let end = offset + bytes.len() as u64;
        (offset / size..end.div_ceil(size)).all(|page| {
            let content = own
                .get(&page)
                .cloned()
                .unwrap_or_else(|| state.history.page(branch, lsn, page));
            let (first, last) = (offset.max(page * size), end.min((page + 1) * size));
            let at = |place: u64| usize::try_from(place).expect("within the image");
            let got = &bytes[at(first - offset)..at(last - offset)];
            match content {
                Some(content) => content[at(first - page * size)..at(last - page * size)] == *got,
                None => is_zero(got),
            }
        })
    }

    pub(super) fn first_difference(
        &self,
        state: &State,
        branch: BranchId,
        lsn: Lsn,
        offset: u64,
        bytes: &Bytes,
    ) -> String {
        let size = size_of(self.page_size);
        let end = offset + bytes.len() as u64;
        for page in offset / size..end.div_ceil(size) {
            let (first, last) = (offset.max(page * size), end.min((page + 1) * size));
            let at = |place: u64| usize::try_from(place).expect("within the image");
            let got = bytes.slice(at(first - offset)..at(last - offset));
            if !self.holds(state, branch, lsn, &[], first, &got) {
                let content = state.history.page(branch, lsn, page);
                let expected = content.map(|it| it.slice(at(first - page * size)..));
                let expected = expected.map(|it| it[..it.len().min(16)].to_vec());
                return format!(
                    "page {page} at LSN {lsn} should begin {expected:x?}, not {:x?}",
                    &got[..got.len().min(16)]
                );
            }
        }
        format!("nothing differs at LSN {lsn}")
    }
}

/// Where a reader may have been: from what it had to see on, up to what is committed now, and
/// while an image is rolled back, before that or after it.
fn places(state: &State, window: Window, now: BranchId, to: Lsn) -> Vec<(BranchId, Lsn)> {
    let history = &state.history;
    let along = |branch: BranchId, from: Lsn, to: Lsn| {
        let positions = history.positions(branch, from, to).into_iter();
        positions.map(move |lsn| (branch, lsn))
    };
    let sent = window.branch.unwrap_or(now);
    if sent == now && window.also.is_none() {
        return along(now, window.from, to).collect();
    }
    let end = |branch| {
        history
            .last(branch)
            .unwrap_or(history.branch(branch).landed)
    };
    let mut places: Vec<_> = match window.also {
        // Acknowledged there is everything up to its end.
        Some(also) => along(also, history.branch(also).acknowledged, end(also)).collect(),
        None => Vec::new(),
    };
    places.extend(along(sent, window.from, end(sent).max(window.from)));
    if sent != now {
        let begins = history.branch(now).begins_at.unwrap_or(Lsn(0));
        places.extend(along(now, begins, to));
    }
    places
}
