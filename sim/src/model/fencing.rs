//! Who may acknowledge (oracle 7, protocol §3.8), exact to the request: an acknowledgement needs a look
//! at the newest manifest that was carried out while the tenure was the newest, no longer ago than
//! the limit on the server's own clock. Only a store that was asked and did not answer excuses one.
//!
//! Excuses, each with its bound: a look that was sent within the last [`LOOK_LASTS`] before the limit
//! and was not answered (the server may let the silence stand for its limit); what was
//! acknowledged before a pause and is heard right after it; what a wire takes ([`Model::heard_late`]).

use std::collections::BTreeMap;
use std::time::Duration;

use mvps_core::protocol::TENURE_CHECK_PATIENCE;

use super::state::{Model, State, machine_of};
use crate::environment::objects::Caller;
use crate::journal;

/// A check is a listing and perhaps another one with a read, each as long as its patience.
const LOOK_LASTS: Duration = TENURE_CHECK_PATIENCE.saturating_mul(2);

/// Nothing happens in between.
const AT_ONCE: Duration = Duration::from_millis(1);

/// What a server said over NBD reaches its client within this time: replies wait for each other on a
/// wire.
const WIRE_LASTS: Duration = Duration::from_millis(500);

/// How long after it was sent an acknowledgement is heard at most.
pub(super) fn heard_late(over_nbd: bool) -> Duration {
    if over_nbd { WIRE_LASTS } else { AT_ONCE }
}

/// A look at the newest manifest that was not answered yet.
#[derive(Debug, Clone, Copy)]
struct Look {
    sent: Duration,
    /// When it was carried out while its sender was the active writer.
    confirms: Option<Duration>,
}

/// What a server may know of its tenure.
#[derive(Debug, Default)]
pub(super) struct Looks {
    under_way: BTreeMap<u64, Look>,
    /// When the last look was carried out that was answered and confirmed the tenure.
    confirmed: Option<Duration>,
    /// When the last look was sent that did not confirm it: it failed, or showed another tenure.
    unconfirmed: Option<Duration>,
}

impl Looks {
    /// When the last look was sent that has not confirmed the tenure.
    fn last_in_vain(&self) -> Option<Duration> {
        let under_way = self.under_way.values().map(|look| look.sent).max();
        under_way.max(self.unconfirmed)
    }
}

impl Model {
    /// `caller` asks who the active writer is.
    pub(super) fn look_sent(&self, caller: &Caller) {
        let look = Look {
            sent: journal::now(),
            confirms: None,
        };
        let mut state = self.state();
        if let Some(server) = state.servers.get_mut(&caller.name) {
            server.looks.under_way.insert(caller.number, look);
        }
    }

    /// The store looks.
    pub(super) fn look_carried_out(&self, caller: &Caller) {
        let mut state = self.state();
        let is_active = state.is_active_writer(&caller.name);
        let server = state.servers.get_mut(&caller.name);
        let look = server.and_then(|it| it.looks.under_way.get_mut(&caller.number));
        if let Some(look) = look.filter(|_| is_active) {
            look.confirms = Some(journal::now());
        }
    }

    /// `caller` gets an answer, good or not.
    pub(super) fn look_answered(&self, caller: &Caller, is_good: bool) {
        let mut state = self.state();
        let Some(server) = state.servers.get_mut(&caller.name) else {
            return;
        };
        let looks = &mut server.looks;
        let Some(look) = looks.under_way.remove(&caller.number) else {
            return;
        };
        match look.confirms.filter(|_| is_good) {
            Some(at) => looks.confirmed = looks.confirmed.max(Some(at)),
            None => looks.unconfirmed = looks.unconfirmed.max(Some(look.sent)),
        }
    }

    /// `server` acknowledges now.
    pub(super) fn check_active_writer(&self, state: &State, server: &str) {
        let now = journal::now();
        let known = &state.servers[server];
        if let Some(fenced) = known.fenced
            && now > fenced + AT_ONCE
        {
            self.journal.fail(
                "7 (fencing)",
                format_args!("{server} knew that it is fenced, and acknowledged"),
            );
        }
        self.journal.checked(7);
        let superseded = known
            .tenure
            .and_then(|it| state.superseded.get(&it).copied());
        if superseded.is_some() {
            self.journal
                .mark("a superseded server acknowledged within its limit");
        }
        let age = |at: Duration| now.saturating_sub(at);
        let limit = self.tenure_limit + self.heard_late;
        if known.looks.confirmed.is_some_and(|at| age(at) <= limit) {
            return;
        }
        let in_vain = known.looks.last_in_vain();
        if in_vain.is_some_and(|sent| age(sent) <= limit + LOOK_LASTS) {
            self.journal
                .mark("a server acknowledged while the store did not answer");
            return;
        }
        let disk = state.disks.get(machine_of(server));
        let resumed = disk.and_then(|it| it.resumed);
        if resumed.is_some_and(|at| age(at) <= self.heard_late) {
            return;
        }
        self.journal.fail(
            "7 (fencing)",
            format_args!(
                "{server} acknowledges, was last confirmed at {:?}, and asked in vain at \
                 {in_vain:?}; superseded at {superseded:?}",
                known.looks.confirmed
            ),
        );
    }
}

impl State {
    /// Whether the newest tenure is one that `process` began.
    pub(super) fn is_active_writer(&self, process: &str) -> bool {
        let newest = self.newest.as_ref().map(|it| it.tenure.id);
        let began = newest.and_then(|it| self.begun_by_process.get(&it));
        began.is_some_and(|it| it == process)
    }
}
