//! Room for what open transactions of all images of a process have written.
//!
//! One transaction's bytes are limited, and so is the number of transactions of an image; their
//! product is more memory than a machine has. What they take together has this limit, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most bytes that open transactions of a process hold: four of the largest, or very many of the
/// usual size, within the memory that a server takes by default.
pub const OPEN_TRANSACTIONS_MAX_BYTES: u64 = 256 << 20;

/// The room. Clones are the same room.
#[derive(Debug, Clone)]
pub struct TransactionRoom {
    taken: Arc<AtomicU64>,
    limit_bytes: u64,
}

impl Default for TransactionRoom {
    fn default() -> Self {
        Self::with_limit(OPEN_TRANSACTIONS_MAX_BYTES)
    }
}

impl TransactionRoom {
    /// Room for `limit_bytes`.
    #[must_use]
    pub fn with_limit(limit_bytes: u64) -> Self {
        Self {
            taken: Arc::default(),
            limit_bytes,
        }
    }

    fn try_take(&self, bytes: u64) -> bool {
        let take = |taken: u64| {
            let after = taken.checked_add(bytes)?;
            (after <= self.limit_bytes).then_some(after)
        };
        let taken = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.is_ok()
    }
}

/// What one transaction has of the room, until dropped.
#[derive(Debug, Default)]
pub struct TakenRoom {
    taken: Option<(TransactionRoom, u64)>,
}

impl TakenRoom {
    /// Takes `bytes` more of `room`; `false`, and nothing is taken, if there is not enough.
    #[must_use]
    pub fn grow(&mut self, room: &TransactionRoom, bytes: u64) -> bool {
        if !room.try_take(bytes) {
            return false;
        }
        self.taken.get_or_insert_with(|| (room.clone(), 0)).1 += bytes;
        true
    }

    /// Bytes that it has.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.taken.as_ref().map_or(0, |(_, bytes)| *bytes)
    }
}

impl Drop for TakenRoom {
    fn drop(&mut self) {
        if let Some((room, bytes)) = &self.taken {
            room.taken.fetch_sub(*bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_shared_and_given_back() {
        let room = TransactionRoom::with_limit(100);
        let (mut one, mut two) = (TakenRoom::default(), TakenRoom::default());
        assert!(one.grow(&room, 60));
        assert!(!two.grow(&room.clone(), 41));
        assert_eq!(two.bytes(), 0);
        assert!(two.grow(&room, 40));
        assert!(!one.grow(&room, u64::MAX));
        drop(one);
        assert!(two.grow(&room, 60));
        assert_eq!(two.bytes(), 100);
    }
}
