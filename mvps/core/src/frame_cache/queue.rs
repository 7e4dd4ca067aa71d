//! What waits to be written: pieces that were put, and names of pieces that were removed.
//!
//! Invariant: for each name only what was asked last counts, also while the write of what was asked
//! before is under way.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::ids::PieceKey;

/// Memory for what waits. A checkpoint brings batches of 4 MiB as fast as they are uploaded: it
/// bridges a tenth of a second of a disk that is busy with the buffer. What does not fit is dropped.
const QUEUE_MAX_BYTES: u64 = 32 << 20;

/// What an entry takes beyond its piece.
const ENTRY_OVERHEAD_BYTES: u64 = 128;

/// Something to be done; a piece to be kept, or none: the name is to be forgotten.
#[derive(Debug, Clone)]
pub struct Change {
    number: u64,
    /// Whose.
    pub key: PieceKey,
    /// What.
    pub piece: Option<Bytes>,
}

/// Changes that are not made yet.
#[derive(Default)]
pub struct Queue {
    /// The last change of each name.
    waiting: BTreeMap<PieceKey, Change>,
    /// The oldest first.
    order: VecDeque<(u64, PieceKey)>,
    bytes: u64,
    last_number: u64,
}

fn cost(piece: &Option<Bytes>) -> u64 {
    ENTRY_OVERHEAD_BYTES + piece.as_ref().map_or(0, |piece| piece.len() as u64)
}

impl Queue {
    /// Adds a change; returns whether there was room. There always is for what takes something away:
    /// each follows a read, so a disk that is stuck brings no more of them.
    pub fn push(&mut self, key: PieceKey, piece: Option<Bytes>) -> bool {
        if piece.is_some() && self.bytes + cost(&piece) > QUEUE_MAX_BYTES {
            return false;
        }
        self.last_number += 1;
        self.bytes += cost(&piece);
        self.order.push_back((self.last_number, key));
        let number = self.last_number;
        let change = Change { number, key, piece };
        if let Some(before) = self.waiting.insert(key, change) {
            self.bytes -= cost(&before.piece);
        }
        true
    }

    /// What waits for this name: its piece, or none because it was removed.
    pub fn get(&self, key: &PieceKey) -> Option<Option<Bytes>> {
        self.waiting.get(key).map(|change| change.piece.clone())
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The oldest changes, of up to so many bytes, and one at least. They wait until they are
    /// [`Self::done`].
    pub fn batch(&mut self, max_bytes: u64) -> Vec<Change> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some((number, key)) = self.order.front() {
            // Another change of that name came later.
            let change = self.waiting.get(key).filter(|it| it.number == *number);
            if let Some(change) = change {
                bytes += cost(&change.piece);
                if bytes > max_bytes && !batch.is_empty() {
                    break;
                }
                batch.push(change.clone());
            }
            self.order.pop_front();
        }
        batch
    }

    /// These changes are made, or given up.
    pub fn done(&mut self, batch: &[Change]) {
        for change in batch {
            let waiting = self.waiting.get(&change.key);
            if waiting.is_some_and(|it| it.number == change.number) {
                self.bytes -= cost(&change.piece);
                self.waiting.remove(&change.key);
            }
        }
    }
}
