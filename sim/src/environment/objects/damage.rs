//! Answers that are wrong, and stores that are not as they should be.

use std::time::Duration;

use bytes::Bytes;
use mvps_core::env::{GetRange, ObjectEntry, StoreError};

use super::{Caller, StoreService, unavailable};
use crate::environment::request::{Answer, Request};
use crate::environment::store_frontend::Reply;
use crate::journal;

/// Longest time that a stale listing is behind.
const STALENESS: Duration = Duration::from_secs(20);

/// A transfer that takes that long is a narrow link's.
const NARROW: Duration = Duration::from_millis(20);

/// Stale listings, per thousand, of a store that has them.
const STALE_LISTINGS: u64 = 300;

impl StoreService {
    pub(super) fn recent(
        &self,
    ) -> std::sync::MutexGuard<'_, std::collections::VecDeque<(Duration, String)>> {
        self.recent.lock().expect("nothing panics under this lock")
    }

    /// What a store makes of a request that does not know conditions.
    pub(super) fn by_profile(&self, request: Request) -> Request {
        match request {
            Request::Create(key, body) if self.profile.ignores_conditions => {
                self.journal
                    .fault("store", "store: without conditional create");
                Request::Put(key, body)
            }
            other => other,
        }
    }

    /// How long `bytes` take on the way.
    pub(super) fn transfer(&self, client: &str, bytes: usize) -> Duration {
        let per_second = self.profile.bandwidth.unwrap_or(u64::MAX);
        let takes = Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / per_second);
        if takes >= NARROW {
            self.journal.fault(client, "store: narrow");
        }
        takes
    }

    /// A body that is cut short on the way.
    pub(super) fn truncated(&self, client: &str, request: &Request, reply: Reply) -> Reply {
        let Ok(Answer::Body(body)) = reply else {
            return reply;
        };
        if body.is_empty() {
            return Ok(Answer::Body(body));
        }
        self.journal.fault(client, "store: truncated body");
        match request {
            // The length of a range is known, so its reader has to see that it is short.
            Request::Get(_, GetRange::Bytes(_)) => {
                let length = self.random.below(body.len() as u64);
                let length = usize::try_from(length).expect("shorter than what is in memory");
                Ok(Answer::Body(body.slice(..length)))
            }
            _ => Err(StoreError::Corrupt {
                key: String::new(),
                reason: "the body ended early".to_owned(),
            }),
        }
    }

    /// Leaves out of a listing what was created lately.
    pub(super) fn make_stale(&self, entries: &mut Vec<ObjectEntry>) {
        if !self.profile.stale_listings || !self.random.chance(STALE_LISTINGS) {
            return;
        }
        let now = journal::now();
        let mut recent = self.recent();
        while recent.front().is_some_and(|(at, _)| *at + STALENESS < now) {
            recent.pop_front();
        }
        let before = entries.len();
        entries.retain(|entry| recent.iter().all(|(_, key)| *key != entry.key));
        drop(recent);
        if entries.len() < before {
            self.journal.fault("store", "store: stale listing");
        }
    }

    pub(super) fn flip(&self, client: &str, body: &Bytes) -> Bytes {
        self.oracle.damaged();
        let mut body = body.to_vec();
        if !body.is_empty() {
            self.journal.fault(client, "store: bit flip");
            let bit = self.random.below(body.len() as u64 * 8);
            let byte = usize::try_from(bit / 8).expect("an index");
            body[byte] ^= 1 << (bit % 8);
        }
        Bytes::from(body)
    }

    /// The same bytes of another object of the same kind, if there is one that is long enough.
    pub(super) fn other_object(&self, client: &str, request: &Request) -> Option<Bytes> {
        let (key, range) = match request {
            Request::Get(key, range) => (key, range),
            _ => return None,
        };
        let kind = |key: &str| key.rsplit_once('.').map(|(_, kind)| kind.to_owned());
        let keys = self.contents.keys();
        let others = keys
            .iter()
            .filter(|other| *other != key && kind(other) == kind(key));
        let bodies = others.filter_map(|other| self.contents.peek(other));
        let wanted = bodies.filter_map(|body| match range {
            GetRange::Whole => Some(body),
            GetRange::Bytes(range) => {
                let at = |place: u64| usize::try_from(place).ok();
                let (from, to) = (at(range.start)?, at(range.end)?);
                (to <= body.len()).then(|| body.slice(from..to))
            }
        });
        let bodies: Vec<Bytes> = wanted.collect();
        let chosen = usize::try_from(self.random.below(bodies.len() as u64)).ok()?;
        let body = bodies.get(chosen)?.clone();
        self.oracle.damaged();
        self.journal.fault(client, "store: wrong but valid object");
        Some(body)
    }

    pub(super) async fn delete_some(&self, caller: &Caller, request: Request) -> Reply {
        let Request::Delete(keys) = request else {
            return unavailable("no deletion");
        };
        let done: Vec<bool> = keys.iter().map(|_| self.random.chance(500)).collect();
        let chosen = keys.iter().zip(&done).filter(|(_, done)| **done);
        let chosen: Vec<String> = chosen.map(|(key, _)| key.clone()).collect();
        if !chosen.is_empty() && chosen.len() < keys.len() {
            let fault = "store: partial bulk delete";
            self.journal.fault(&caller.name, fault);
        }
        if !chosen.is_empty() {
            self.apply(caller, Request::Delete(chosen)).await?;
        }
        let refused = || StoreError::Unavailable {
            reason: "InternalError".to_owned(),
        };
        let results = done
            .iter()
            .map(|done| if *done { Ok(()) } else { Err(refused()) });
        Ok(Answer::Deleted(results.collect()))
    }
}
