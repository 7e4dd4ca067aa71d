//! The open transactions of an image, and who holds or awaits its write lock.
//!
//! Owned by the image's task. Shared with a transaction's own side is what it keeps in memory: its
//! view and its workspace. So aborting a transaction releases both, even if the client never asks
//! for anything again.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::conflict::ConflictWindow;
use super::workspace::Pinned;
use crate::engine::buffer::RangeMap;
use crate::engine::config::EngineConfig;
use crate::engine::error::EngineError;
use crate::engine::read::View;
use crate::engine::reply::{Origin, TransactionId};
use crate::env::Moment;
use crate::ids::Lsn;

/// Why the oldest transaction is aborted when the conflict window may grow no more.
pub const WINDOW_FULL: &str = "too many pages were committed since it began";

struct OpenTransaction {
    origin: Origin,
    pinned: Arc<Pinned>,
    view_lsn: Lsn,
    view_map: u64,
    began: Moment,
}

/// The open transactions of an image, what may conflict with them, and who holds the write lock.
pub struct Transactions {
    open: BTreeMap<TransactionId, OpenTransaction>,
    last_id: u64,
    window: ConflictWindow,
    /// Ranges that the window remembers before the oldest transaction is aborted.
    conflict_ranges_max: usize,
    lock: Option<(TransactionId, Moment)>,
}

impl Transactions {
    /// None is open. See [`crate::engine::Limits::conflict_ranges_max`].
    pub fn new(conflict_ranges_max: usize) -> Self {
        Self {
            open: BTreeMap::new(),
            last_id: 0,
            window: ConflictWindow::default(),
            conflict_ranges_max,
            lock: None,
        }
    }

    /// Opens a transaction on `view`.
    ///
    /// # Errors
    /// [`EngineError::TransactionTooLarge`] if too many are open.
    pub fn begin(
        &mut self,
        origin: Origin,
        view: Arc<View>,
        now: Moment,
        config: &EngineConfig,
    ) -> Result<(TransactionId, Arc<Pinned>), EngineError> {
        if self.open.len() >= config.transactions_max {
            return Err(EngineError::TransactionTooLarge {
                limit: "open transactions",
            });
        }
        self.last_id += 1;
        let id = TransactionId(self.last_id);
        let (view_lsn, view_map) = (view.lsn, view.guard.0);
        let pinned = Arc::new(Pinned::new(view));
        let transaction = OpenTransaction {
            origin,
            pinned: Arc::clone(&pinned),
            view_lsn,
            view_map,
            began: now,
        };
        self.open.insert(id, transaction);
        Ok((id, pinned))
    }

    /// Whether a commit of `by` must wait because another transaction holds the lock.
    #[must_use]
    pub fn is_locked_against(&self, by: Option<TransactionId>) -> bool {
        let locked = self.lock.is_some_and(|(holder, _)| Some(holder) != by);
        locked && !crate::mutant::is("lock not exclusive")
    }

    /// Whether `id` is open: neither ended nor aborted.
    #[must_use]
    pub fn is_open(&self, id: TransactionId) -> bool {
        self.open.contains_key(&id)
    }

    /// Whether `id` holds the lock.
    #[must_use]
    pub fn holds_lock(&self, id: TransactionId) -> bool {
        self.lock.is_some_and(|(holder, _)| holder == id)
    }

    /// Checks that `id` is open and that nothing it read was committed since its view.
    ///
    /// # Errors
    /// [`EngineError::Aborted`] or [`EngineError::Conflict`].
    pub fn check(&self, id: TransactionId, reads: &RangeMap<()>) -> Result<(), EngineError> {
        let Some(transaction) = self.open.get(&id) else {
            return Err(EngineError::Aborted {
                reason: "the transaction is no longer open",
            });
        };
        let conflicts = self.window.conflicts(reads, transaction.view_lsn);
        if conflicts && !crate::mutant::is("conflict check skipped") {
            return Err(EngineError::Conflict);
        }
        Ok(())
    }

    /// Gives `id` the lock, which is free, and moves it to `view`: everything it read is the same
    /// there, as [`Self::check`] just said, so whatever it reads next cannot conflict either.
    pub fn grant(&mut self, id: TransactionId, view: Arc<View>, now: Moment) {
        assert!(self.lock.is_none(), "a lock has one holder");
        let transaction = self
            .open
            .get_mut(&id)
            .expect("a checked transaction is open");
        transaction.view_lsn = view.lsn;
        transaction.view_map = view.guard.0;
        transaction.pinned.move_to(view);
        self.lock = Some((id, now));
    }

    /// Ends a transaction and releases its lock, if it is open.
    pub fn end(&mut self, id: TransactionId) {
        self.remove(id, "the transaction has ended");
    }

    fn remove(&mut self, id: TransactionId, reason: &'static str) {
        if let Some(transaction) = self.open.remove(&id) {
            transaction.pinned.end(reason);
        }
        if self.holds_lock(id) {
            self.lock = None;
        }
        match self.oldest_view() {
            None => self.window.clear(),
            Some(oldest) if self.is_window_full() => self.window.prune(oldest),
            Some(_) => {}
        }
    }

    /// Ends all transactions of revoked connections.
    pub fn end_revoked(&mut self) {
        let revoked: Vec<_> = self
            .open
            .iter()
            .filter(|(_, transaction)| transaction.origin.is_revoked())
            .map(|(id, _)| *id)
            .collect();
        for id in revoked {
            self.remove(id, "the connection was replaced");
        }
    }

    /// Ends all transactions.
    pub fn abort_all(&mut self, reason: &'static str) {
        while let Some((id, _)) = self.open.first_key_value() {
            let id = *id;
            self.remove(id, reason);
        }
    }

    /// Notes a commit of `pages`, if any open transaction could conflict with it.
    pub fn committed(&mut self, pages: std::ops::Range<crate::ids::PageNumber>, lsn: Lsn) {
        if self.open.is_empty() {
            return;
        }
        self.window.committed(pages, lsn);
        if self.is_window_full() {
            let oldest = self.oldest_view().expect("a transaction is open");
            self.window.prune(oldest);
        }
        while self.is_window_full() {
            if crate::mutant::is("the conflict window forgets and aborts nobody") {
                self.window.clear();
            } else {
                self.abort_oldest(WINDOW_FULL);
            }
        }
    }

    fn is_window_full(&self) -> bool {
        self.window.len() > self.conflict_ranges_max
    }

    /// A generation was checkpointed. What was committed in it may still be in conflict with an
    /// open transaction, so nothing is forgotten.
    pub fn checkpointed(&mut self) {
        if crate::mutant::is("page LSNs forgotten with the dropped generation") {
            self.window.clear();
        }
    }

    /// Aborts what is older than its limit, and breaks a lock that was held for too long.
    pub fn expire(&mut self, now: Moment, config: &EngineConfig) {
        if let Some((holder, since)) = self.lock
            && now.since(since) >= config.lock_held_max
        {
            self.remove(holder, "it held the lock for too long");
        }
        let expired: Vec<_> = self
            .open
            .iter()
            .filter(|(_, open)| now.since(open.began) >= config.transaction_age_max)
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            self.remove(id, "it grew too old");
        }
    }

    /// Aborts the transaction with the oldest view, if any.
    pub fn abort_oldest(&mut self, reason: &'static str) {
        let oldest = self
            .open
            .iter()
            .min_by_key(|(id, open)| (open.view_lsn, **id));
        if let Some((id, _)) = oldest {
            let id = *id;
            self.remove(id, reason);
        }
    }

    /// Whether a transaction reads through a map older than number `map`, and so keeps dropped
    /// generations on the disk.
    #[must_use]
    pub fn pins_map_before(&self, map: u64) -> bool {
        self.open.values().any(|open| open.view_map < map)
    }

    fn oldest_view(&self) -> Option<Lsn> {
        let views = self.open.values().map(|open| open.view_lsn);
        if crate::mutant::is("the conflict window is pruned by the newest view") {
            return views.max();
        }
        views.min()
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether any deadline may be running.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests;
