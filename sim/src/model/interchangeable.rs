//! Interchangeable requests: several that ask for the same at the same time. The order of commits
//! does not tell which of them is which, so a commit is first taken for one of them, and answers tell
//! more.
//!
//! Must never: give a request a place whose commit is not exactly its effect, that was taken before
//! it was sent, or that its answer does not cover: what is committed later than that, or is not as
//! durable as was promised.

use mvps_core::ids::Lsn;

use super::content::{Pages, apply};
use super::history::{BranchId, History};
use super::operation::{Operation, OperationId};
use super::state::{Model, State};

impl Model {
    /// The commit `at` is no waiting request's effect. If it is that of one that an earlier commit was
    /// taken for, and that place may be another's, each gets its own. Whose the commit is then.
    pub(super) fn reassign(
        &self,
        state: &mut State,
        server: &str,
        (branch, at): (BranchId, Lsn),
        pages: &Pages,
    ) -> Option<u64> {
        let history = &state.history;
        let here = |one: &&Operation| one.server == server && one.submitted;
        let waits = |one: &&Operation| here(one) && !one.over && one.lsn.is_none();
        let before = |page| history.page(branch, Lsn(at.0 - 1), page);
        let fits_here = |one: &Operation| apply(&one.effects, self.page_size, before) == *pages;
        let held = state.operations.iter().filter(|(_, one)| here(one));
        let held = held.filter_map(|(id, one)| Some((*id, one.lsn?, one)));
        let (id, place, waiting) = held
            .filter(|(_, _, one)| one.branch == Some(branch) && fits_here(one))
            .find_map(|(id, place, _)| {
                let mut others = state.operations.iter();
                let (other, _) = others.find(|(_, other)| {
                    waits(other) && self.may_be(history, branch, other, place)
                })?;
                Some((id, place, *other))
            })?;
        let other = state.operations.get_mut(&waiting)?;
        (other.lsn, other.branch) = (Some(place), Some(branch));
        Some(id)
    }

    /// A request was answered well, and no commit was taken for it: one of those that were taken
    /// for others is its own.
    pub(super) fn exchange(&self, state: &mut State, id: OperationId, on: BranchId) -> Option<Lsn> {
        let own = &state.operations[&id.0];
        let is_own = |other: &Operation| {
            let place = other.lsn.filter(|_| other.server == own.server);
            place.is_some_and(|lsn| self.may_be(&state.history, on, own, lsn))
        };
        let mut others = state.operations.iter();
        let found = others.find(|(number, other)| **number != id.0 && is_own(other));
        let found = *found?.0;
        let other = state.operations.get_mut(&found)?;
        let place = (other.lsn.take(), other.branch.take());
        let own = state.operations.get_mut(&id.0)?;
        (own.lsn, own.branch) = place;
        own.lsn
    }

    /// A request was refused, and a commit was taken for it: if another one that waits asked for
    /// the same, it is that one's.
    pub(super) fn give_away(&self, state: &mut State, id: OperationId) -> bool {
        let own = &state.operations[&id.0];
        let (Some(lsn), Some(branch)) = (own.lsn, own.branch) else {
            return false;
        };
        let is_its = |other: &Operation| {
            let waits = other.submitted && !other.over && other.lsn.is_none();
            waits && other.server == own.server && self.may_be(&state.history, branch, other, lsn)
        };
        let found = state.operations.iter().find(|(_, other)| is_its(other));
        let Some(found) = found.map(|(number, _)| *number) else {
            return false;
        };
        let other = state.operations.get_mut(&found).expect("it was found");
        (other.lsn, other.branch) = (Some(lsn), Some(branch));
        let own = state.operations.get_mut(&id.0).expect("it was sent");
        (own.lsn, own.branch) = (None, None);
        true
    }

    /// A request was answered that was taken for the commit `lsn`. The first of the places that it
    /// may have is its own; one that was answered before may have the later one.
    pub(super) fn first_place(
        &self,
        state: &mut State,
        id: OperationId,
        branch: BranchId,
        mut lsn: Lsn,
    ) -> Lsn {
        // One exchange may make another one possible.
        while let Some(earlier) = self.earlier_place(state, id, branch, lsn) {
            lsn = earlier;
        }
        lsn
    }

    fn earlier_place(
        &self,
        state: &mut State,
        id: OperationId,
        branch: BranchId,
        lsn: Lsn,
    ) -> Option<Lsn> {
        let own = &state.operations[&id.0];
        let others = state
            .operations
            .values()
            .chain(&state.answered_interchangeable);
        let places = others
            .filter(|other| other.lsn.is_some_and(|place| place < lsn))
            .filter(|other| self.are_interchangeable(&state.history, own, other));
        let first = places.filter_map(|other| other.lsn).min()?;
        let (server, on) = (own.server.clone(), own.branch);
        let all = state.operations.values_mut();
        let holder = all
            .chain(&mut state.answered_interchangeable)
            .find(|other| other.lsn == Some(first) && other.branch == on && other.server == server);
        let holder = holder?;
        holder.lsn = Some(lsn);
        if holder.answered_at.is_some() {
            let acknowledged = &mut state.history.branch_mut(branch).acknowledged;
            *acknowledged = lsn.max(*acknowledged);
        }
        let own = state.operations.get_mut(&id.0)?;
        own.lsn = Some(first);
        Some(first)
    }

    /// A request was answered; it is kept as long as one that is not answered may have its place.
    pub(super) fn answered(&self, state: &mut State, id: OperationId) {
        let answered = state.operations.remove(&id.0).expect("it was sent");
        let mut kept = std::mem::take(&mut state.answered_interchangeable);
        kept.push(answered);
        kept.retain(|one| {
            let mut others = state.operations.values();
            others.any(|other| self.are_interchangeable(&state.history, one, other))
        });
        state.answered_interchangeable = kept;
    }

    /// Whether each may have been committed in the other's place.
    fn are_interchangeable(&self, history: &History, one: &Operation, other: &Operation) -> bool {
        let (Some(place), Some(others), Some(branch)) = (one.lsn, other.lsn, one.branch) else {
            return false;
        };
        let same = one.server == other.server && one.branch == other.branch;
        same && self.may_be(history, branch, one, others)
            && self.may_be(history, branch, other, place)
    }

    /// Whether the commit `lsn` may be that of `operation`.
    fn may_be(&self, history: &History, on: BranchId, operation: &Operation, lsn: Lsn) -> bool {
        let in_time =
            lsn > operation.sent_after && operation.answered_at.is_none_or(|latest| lsn <= latest);
        in_time && {
            let before = |page| history.page(on, Lsn(lsn.0 - 1), page);
            let pages = apply(&operation.effects, self.page_size, before);
            history.is_commit(on, lsn, &pages)
        }
    }
}
