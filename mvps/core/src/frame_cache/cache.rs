//! The access to the cache: what is asked, and what is found.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::index::{CacheIndex, Place};
use super::queue::Queue;
use super::settings::SlabCacheSettings;
use super::slab::{Found, Slab};
use crate::env::{Entropy, Files, FolderLock, FrameCache, FrameCacheUsage};
use crate::ids::PieceKey;

/// Times that a piece is looked for where the index says: it may move meanwhile.
const LOOKS_MAX: usize = 3;

/// A disk cache. Clones are the same cache.
#[derive(Clone)]
pub struct SlabCache(pub(super) Arc<Shared>);

/// What jobs and tasks share.
pub(super) struct Shared {
    pub(super) files: Arc<dyn Files>,
    pub(super) index: Arc<dyn CacheIndex>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) settings: SlabCacheSettings,
    pub(super) counts: Counts,
    pub(super) state: Mutex<State>,
    pub(super) _lock: Box<dyn FolderLock>,
}

/// What changes. Never locked while the disk is waited for.
#[derive(Default)]
pub(super) struct State {
    pub(super) limit_bytes: u64,
    /// By number, the oldest first.
    pub(super) slabs: BTreeMap<u64, Arc<Slab>>,
    /// The one that takes entries: never one of an earlier process, of which the disk may have kept
    /// anything.
    pub(super) active: Option<Arc<Slab>>,
    /// The highest number that a slab ever had here.
    pub(super) last_number: u64,
    pub(super) queue: Queue,
    /// The index has failed: nothing is kept any more.
    pub(super) is_over: bool,
    /// A job is at work.
    pub(super) is_working: bool,
    /// Who waits for it to end.
    pub(super) waiting: Vec<oneshot::Sender<()>>,
}

impl State {
    pub(super) fn oldest(&self) -> Option<Arc<Slab>> {
        self.slabs.values().next().map(Arc::clone)
    }
}

/// A number that many change.
#[derive(Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Only the job at work changes it so.
    pub(super) fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What happened.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) entries: Count,
    pub(super) hits: Count,
    pub(super) misses: Count,
    pub(super) damaged: Count,
    pub(super) evicted: Count,
    pub(super) dropped: Count,
    /// The last write failed, and that was logged.
    pub(super) is_failing: AtomicBool,
    /// The last read failed, and that was logged.
    cannot_read: AtomicBool,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn used_bytes(&self, state: &State) -> u64 {
        state.slabs.values().map(|slab| slab.length()).sum()
    }

    /// Looks for a piece on the disk.
    fn look(&self, key: &PieceKey) -> Option<Bytes> {
        let mut last = None;
        for _ in 0..LOOKS_MAX {
            let place = self.place(key)?;
            if last == Some(place) {
                break;
            }
            last = Some(place);
            let slab = self.state().slabs.get(&place.slab).map(Arc::clone);
            // The slab is gone. Either the piece has moved, or the index was not told.
            let Some(slab) = slab else {
                continue;
            };
            match slab.read(key, &place) {
                Ok(Found::Piece(piece)) => {
                    self.counts.cannot_read.store(false, Ordering::Relaxed);
                    return Some(piece);
                }
                Ok(Found::Other) => {}
                Err(error) => {
                    if !self.counts.cannot_read.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%error, "the disk cache cannot be read");
                    }
                }
            }
            self.counts.damaged.add(1);
            break;
        }
        self.state().queue.push(*key, None);
        None
    }

    fn place(&self, key: &PieceKey) -> Option<Place> {
        let place = self.index.get(key);
        place.unwrap_or_else(|error| {
            if !self.counts.cannot_read.swap(true, Ordering::Relaxed) {
                tracing::warn!(%error, "the index of the disk cache cannot be read");
            }
            None
        })
    }

    fn count_look(&self, found: Option<Bytes>) -> Option<Bytes> {
        match found {
            Some(_) => self.counts.hits.add(1),
            None => self.counts.misses.add(1),
        }
        found
    }
}

impl SlabCache {
    /// Begins a job if none is at work.
    pub(super) fn begin_work(&self) {
        if std::mem::replace(&mut self.0.state().is_working, true) {
            return;
        }
        let shared = Arc::clone(&self.0);
        self.0.files.aside(Box::new(move || shared.work()));
    }

    fn change(&self, key: PieceKey, piece: Option<Bytes>) {
        let taken = {
            let mut state = self.0.state();
            !state.is_over && state.queue.push(key, piece)
        };
        if !taken {
            self.0.counts.dropped.add(1);
        }
        self.begin_work();
    }
}

#[async_trait]
impl FrameCache for SlabCache {
    async fn get(&self, key: PieceKey) -> Option<Bytes> {
        let queued = {
            let state = self.0.state();
            match state.is_over {
                true => Some(None),
                false => state.queue.get(&key),
            }
        };
        if let Some(queued) = queued {
            // A copy: what waits may be a slice of a whole part of an upload.
            let queued = queued.map(|piece| Bytes::copy_from_slice(&piece));
            return self.0.count_look(queued);
        }
        let (sender, receiver) = oneshot::channel();
        let cache = self.clone();
        self.0.files.aside(Box::new(move || {
            let found = cache.0.look(&key);
            // Whoever does not wait any more has no use for it.
            let _ = sender.send(cache.0.count_look(found));
            let is_due = !cache.0.state().queue.is_empty();
            if is_due {
                cache.begin_work();
            }
        }));
        // A process that ends does not read any more.
        receiver.await.ok().flatten()
    }

    fn put(&self, key: PieceKey, piece: Bytes) {
        self.change(key, Some(piece));
    }

    fn remove(&self, key: PieceKey) {
        self.0.counts.damaged.add(1);
        self.change(key, None);
    }

    fn limit_to(&self, bytes: u64) {
        self.0.state().limit_bytes = bytes;
        self.begin_work();
    }

    async fn settled(&self) {
        let receiver = {
            let mut state = self.0.state();
            if !state.is_working {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.push(sender);
            receiver
        };
        // A process that ends does nothing more.
        let _ = receiver.await;
    }

    fn usage(&self) -> FrameCacheUsage {
        let counts = &self.0.counts;
        let state = self.0.state();
        FrameCacheUsage {
            entries: counts.entries.get(),
            bytes: self.0.used_bytes(&state),
            limit_bytes: state.limit_bytes,
            hits: counts.hits.get(),
            misses: counts.misses.get(),
            damaged: counts.damaged.get(),
            evicted: counts.evicted.get(),
            dropped: counts.dropped.get(),
        }
    }
}
