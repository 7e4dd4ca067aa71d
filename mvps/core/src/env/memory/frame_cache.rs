//! A cache of pieces in memory: the reference of the suite, and a disk whose damage a test chooses.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;

use crate::env::{FrameCache, FrameCacheUsage};
use crate::ids::PieceKey;

#[derive(Default)]
struct State {
    pieces: BTreeMap<PieceKey, Bytes>,
    /// The oldest first.
    order: VecDeque<PieceKey>,
    usage: FrameCacheUsage,
}

/// Pieces in memory, the oldest of which go first.
pub struct MemoryFrameCache(Mutex<State>);

impl MemoryFrameCache {
    /// An empty cache of at most `limit_bytes`.
    #[must_use]
    pub fn new(limit_bytes: u64) -> Self {
        let state = State::default();
        let cache = Self(Mutex::new(state));
        cache.lock().usage.limit_bytes = limit_bytes;
        cache
    }

    /// What is there, ascending.
    #[must_use]
    pub fn keys(&self) -> Vec<PieceKey> {
        self.lock().pieces.keys().copied().collect()
    }

    /// The disk has `piece` under this key instead, if there was one.
    pub fn replace(&self, key: PieceKey, piece: Bytes) {
        if let Some(there) = self.lock().pieces.get_mut(&key) {
            *there = piece;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics with this lock")
    }
}

impl State {
    fn evict(&mut self, room_bytes: u64) {
        while self.usage.bytes + room_bytes > self.usage.limit_bytes {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            self.usage.evicted += u64::from(self.take(&oldest));
        }
    }

    fn take(&mut self, key: &PieceKey) -> bool {
        let taken = self.pieces.remove(key);
        if let Some(piece) = &taken {
            self.usage.bytes -= piece.len() as u64;
            self.usage.entries -= 1;
        }
        taken.is_some()
    }
}

#[async_trait]
impl FrameCache for MemoryFrameCache {
    async fn get(&self, key: PieceKey) -> Option<Bytes> {
        let mut state = self.lock();
        let found = state.pieces.get(&key).cloned();
        match found {
            Some(_) => state.usage.hits += 1,
            None => state.usage.misses += 1,
        }
        found
    }

    fn put(&self, key: PieceKey, piece: Bytes) {
        let mut state = self.lock();
        let bytes = piece.len() as u64;
        if bytes > state.usage.limit_bytes {
            state.usage.dropped += 1;
            return;
        }
        state.take(&key);
        state.evict(bytes);
        state.usage.bytes += bytes;
        state.usage.entries += 1;
        state.pieces.insert(key, piece);
        state.order.push_back(key);
    }

    fn remove(&self, key: PieceKey) {
        let mut state = self.lock();
        state.usage.damaged += 1;
        state.take(&key);
    }

    fn limit_to(&self, bytes: u64) {
        let mut state = self.lock();
        state.usage.limit_bytes = bytes;
        state.evict(0);
    }

    async fn settled(&self) {}

    fn usage(&self) -> FrameCacheUsage {
        self.lock().usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::conformance::check_frame_cache;

    #[tokio::test]
    async fn it_is_a_frame_cache() {
        check_frame_cache(&MemoryFrameCache::new(1 << 20), 1 << 20).await;
    }
}
