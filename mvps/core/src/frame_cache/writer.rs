//! The one that writes: appends what was put, and makes room.
//!
//! A job runs while there is something to do, and never two at a time. Its failures are nobody
//! else's. What could not be written is dropped; if there was no room, the oldest slab is given up. An
//! index that fails ends the cache: nothing leads to what is in it any more, so its room is given back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::cache::{Shared, State};
use super::format::{HEADER_BYTES, SlabHeader};
use super::index::Place;
use super::queue::{Change, Queue};
use super::slab::{Slab, file_name};
use crate::env::{EntropyExt, is_want_of_room};
use crate::ids::PieceKey;
use crate::mutant::is;

/// What is written at once: enough that a call of the system costs little beside it.
const BATCH_BYTES: u64 = 1 << 20;

/// Slabs, each of which is an open file: a cache of 1 TiB, or as many starts of the server.
const SLABS_MAX: usize = 16 << 10;

/// What failed.
enum Failed {
    /// A file of a slab.
    Disk(io::Error),
    /// The index; it may have failed for good.
    Index(io::Error),
}

/// A job at work. A panic of one does not keep others from working.
struct AtWork<'a> {
    shared: &'a Shared,
    has_ended: bool,
}

impl AtWork<'_> {
    fn end(mut self, state: &mut State) {
        self.has_ended = true;
        self.shared.rest(state);
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.shared.rest(&mut self.shared.state());
        }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl Shared {
    /// No job is at work any more.
    fn rest(&self, state: &mut State) {
        state.is_working = false;
        for waiting in std::mem::take(&mut state.waiting) {
            // Whoever does not wait any more is not told.
            let _ = waiting.send(());
        }
    }

    /// Does what there is to do, and returns when there is nothing.
    pub(super) fn work(&self) {
        let at_work = AtWork {
            shared: self,
            has_ended: false,
        };
        loop {
            self.shrink();
            let batch = {
                let mut state = self.state();
                if state.queue.is_empty() && self.used_bytes(&state) <= state.limit_bytes {
                    return at_work.end(&mut state);
                }
                state.queue.batch(self.batch_bytes())
            };
            match self.write(&batch) {
                Ok(()) => {}
                Err(Failed::Disk(error)) => self.give_way(&error),
                Err(Failed::Index(error)) => self.end(&error),
            }
            self.state().queue.done(&batch);
        }
    }

    /// A batch goes to one slab, and so does every piece.
    fn batch_bytes(&self) -> u64 {
        BATCH_BYTES.min(self.settings.slab_bytes / 4)
    }

    /// Makes changes: first the index forgets what is to go, whatever becomes of the rest.
    fn write(&self, batch: &[Change]) -> Result<(), Failed> {
        let removed = batch.iter().filter(|change| change.piece.is_none());
        let removed: Vec<_> = removed.map(|change| (change.key, None)).collect();
        if !is("cache entry kept after damage") {
            self.apply(&removed)?;
        }
        let piece_of = |change: &Change| Some((change.key, change.piece.clone()?));
        let mut pieces: Vec<_> = batch.iter().filter_map(piece_of).collect();
        let count = pieces.len();
        let fits = self.state().limit_bytes >= self.room_bytes();
        pieces.retain(|(_, piece)| fits && entry_bytes(piece) <= self.batch_bytes());
        self.counts.dropped.add((count - pieces.len()) as u64);
        if pieces.is_empty() {
            return Ok(());
        }
        let appended = self.append(&pieces);
        let written = appended.and_then(|places| self.apply(&places));
        match written {
            Ok(()) => self.counts.is_failing.store(false, Ordering::Relaxed),
            Err(_) => self.counts.dropped.add(pieces.len() as u64),
        }
        written
    }

    /// Appends pieces; returns their places.
    fn append(&self, pieces: &[(PieceKey, Bytes)]) -> Result<Changes, Failed> {
        if pieces.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = pieces.iter().map(|(_, piece)| entry_bytes(piece)).sum();
        let slab = self.slab_with_room(bytes).map_err(Failed::Disk)?;
        let places = slab.append(pieces).map_err(Failed::Disk)?;
        let places = places.into_iter().map(Some);
        Ok(pieces.iter().map(|(key, _)| *key).zip(places).collect())
    }

    /// Changes the index, and the count of what is in it.
    fn apply(&self, changes: &[(PieceKey, Option<Place>)]) -> Result<(), Failed> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut entries = self.counts.entries.get();
        for (key, place) in changes {
            match (self.index.get(key).map_err(Failed::Index)?, place) {
                (None, Some(_)) => entries += 1,
                (Some(_), None) => entries = entries.saturating_sub(1),
                _ => {}
            }
        }
        self.counts.entries.set(entries);
        self.index.apply(changes, entries).map_err(Failed::Index)
    }

    /// What a new slab may take, and what of the slabs before it is copied to it meanwhile.
    fn room_bytes(&self) -> u64 {
        self.settings.slab_bytes + self.settings.slab_bytes / 2
    }

    /// The newest slab, if it has room, or a new one.
    fn slab_with_room(&self, bytes: u64) -> io::Result<Arc<Slab>> {
        let active = self.state().active.clone();
        let room = |slab: &Arc<Slab>| slab.length() + bytes <= self.settings.slab_bytes;
        match active.filter(room) {
            Some(active) => Ok(active),
            None => self.begin_slab(),
        }
    }

    /// Makes a slab, and room for what will be in it.
    fn begin_slab(&self) -> io::Result<Arc<Slab>> {
        let header = {
            let mut state = self.state();
            state.last_number += 1;
            SlabHeader {
                index: self.index.identity(),
                number: state.last_number,
                seed: self.entropy.u64(),
            }
        };
        let room = self.settings.slab_bytes;
        let slab = Slab::make(&*self.files, &self.settings.folder, header, room)?;
        let slab = Arc::new(slab);
        {
            let mut state = self.state();
            state.slabs.insert(slab.number, Arc::clone(&slab));
            state.active = Some(Arc::clone(&slab));
        }
        let mut second_chance_bytes = self.settings.slab_bytes / 2;
        loop {
            let oldest = {
                let state = self.state();
                let others = state.slabs.range(..slab.number);
                let mut others = others.map(|(_, oldest)| Arc::clone(oldest));
                let used = self.used_bytes(&state) + self.room_bytes();
                let too_much = used > state.limit_bytes || state.slabs.len() > SLABS_MAX;
                others.next().filter(|_| too_much)
            };
            match oldest {
                Some(oldest) => self.give_up(&oldest, &mut second_chance_bytes),
                None => return Ok(slab),
            }
        }
    }

    /// Gives room back until the limit holds.
    fn shrink(&self) {
        loop {
            let oldest = {
                let state = self.state();
                let too_much = self.used_bytes(&state) > state.limit_bytes;
                state.oldest().filter(|_| too_much)
            };
            match oldest {
                Some(oldest) => self.give_up(&oldest, &mut 0),
                None => return,
            }
        }
    }

    /// A slab could not be written.
    fn give_way(&self, error: &io::Error) {
        if !self.counts.is_failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "the disk cache cannot be written");
        }
        if is_want_of_room(error) {
            // Without telling the index, which needs room, too.
            let oldest = self.state().oldest();
            oldest.iter().for_each(|oldest| self.remove(oldest));
        }
    }

    /// The index failed: whatever is in the slabs is lost, and takes no room.
    fn end(&self, error: &io::Error) {
        if is("an index that fails is asked again") {
            return;
        }
        let slabs = {
            let mut state = self.state();
            if std::mem::replace(&mut state.is_over, true) {
                return;
            }
            state.queue = Queue::default();
            state.slabs.clone()
        };
        tracing::warn!(%error, "the index of the disk cache fails: no cache until the next start");
        slabs.values().for_each(|slab| self.remove(slab));
        self.counts.entries.set(0);
        self.index.discard();
    }

    /// Removes a slab's file. The index finds out when somebody asks.
    fn remove(&self, slab: &Slab) {
        let mut state = self.state();
        state.slabs.remove(&slab.number);
        if state
            .active
            .as_ref()
            .is_some_and(|it| it.number == slab.number)
        {
            state.active = None;
        }
        drop(state);
        let path = format!("{}/{}", self.settings.folder, file_name(slab.number));
        if let Err(error) = self.files.remove(&path) {
            tracing::warn!(%error, slab = path, "a slab of the disk cache cannot be removed");
        }
    }

    /// Removes a slab. Of what was read of it up to `second_chance_bytes` move to the newest slab.
    fn give_up(&self, slab: &Slab, second_chance_bytes: &mut u64) {
        // First, for the room: what is open can be read to its end.
        self.remove(slab);
        match self.move_on(slab, second_chance_bytes) {
            Ok(()) => {}
            Err(Failed::Disk(error)) => {
                tracing::debug!(%error, slab = slab.number, "a slab goes whole");
            }
            Err(Failed::Index(error)) => self.end(&error),
        }
    }

    /// Moves what was read of a slab, and makes the index forget the rest.
    fn move_on(&self, slab: &Slab, second_chance_bytes: &mut u64) -> Result<(), Failed> {
        let mut moving: Vec<(PieceKey, Bytes)> = Vec::new();
        let mut moving_bytes = 0;
        let mut forgotten = Vec::new();
        slab.walk::<Failed>(|key, place, piece| {
            let current = self.index.get(&key).map_err(Failed::Index)?;
            let is_current = current == Some(place);
            if !is_current && !is("second chance for what was removed") {
                return Ok(());
            }
            let bytes = entry_bytes(&piece);
            let in_use = slab.was_read(place.offset) && !is("a scan drives out what is in use");
            if bytes > *second_chance_bytes || !in_use {
                forgotten.push((key, None));
                return Ok(());
            }
            *second_chance_bytes -= bytes;
            if moving_bytes + bytes > self.batch_bytes() {
                self.apply(&self.append(&moving)?)?;
                moving.clear();
                moving_bytes = 0;
            }
            moving_bytes += bytes;
            moving.push((key, piece));
            Ok(())
        })?;
        self.apply(&self.append(&moving)?)?;
        self.counts.evicted.add(forgotten.len() as u64);
        self.apply(&forgotten)
    }
}

/// Pieces with their new places; none for those that are to be forgotten.
type Changes = Vec<(PieceKey, Option<Place>)>;

/// What a piece takes in a slab.
fn entry_bytes(piece: &Bytes) -> u64 {
    (HEADER_BYTES + piece.len()) as u64
}
