//! The one that writes: appends what was put, and makes room.
//!
//! A job runs while there is something to do, and never two at a time. Its failures are nobody
//! else's: what could not be written is dropped, and the oldest slab is given up, because most
//! often the disk is full.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::cache::Shared;
use super::format::{HEADER_BYTES, SlabHeader};
use super::index::Place;
use super::queue::Change;
use super::slab::{Slab, file_name};
use crate::env::EntropyExt;
use crate::ids::PieceKey;
use crate::mutant::is;

/// What is written at once: enough that a call of the system costs little beside it.
const BATCH_BYTES: u64 = 1 << 20;

/// Slabs, each of which is an open file: a cache of 1 TiB, or as many starts of the server.
const SLABS_MAX: usize = 16 << 10;

impl Shared {
    /// Does what there is to do, and returns when there is nothing.
    pub(super) fn work(&self) {
        loop {
            self.shrink();
            let batch = {
                let mut state = self.state();
                if state.queue.is_empty() && self.used_bytes(&state) <= state.limit_bytes {
                    state.is_working = false;
                    for waiting in std::mem::take(&mut state.waiting) {
                        // Whoever does not wait any more is not told.
                        let _ = waiting.send(());
                    }
                    return;
                }
                state.queue.batch(self.batch_bytes())
            };
            if let Err(error) = self.write(&batch) {
                self.give_way(&error);
            }
            self.state().queue.done(&batch);
        }
    }

    /// A batch goes to one slab, and so does every piece.
    fn batch_bytes(&self) -> u64 {
        BATCH_BYTES.min(self.settings.slab_bytes / 4)
    }

    /// Makes changes: first the index forgets what is to go, whatever becomes of the rest.
    fn write(&self, batch: &[Change]) -> io::Result<()> {
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
    fn append(&self, pieces: &[(PieceKey, Bytes)]) -> io::Result<Vec<(PieceKey, Option<Place>)>> {
        if pieces.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = pieces.iter().map(|(_, piece)| entry_bytes(piece)).sum();
        let places = self.slab_with_room(bytes)?.append(pieces)?;
        let places = places.into_iter().map(Some);
        Ok(pieces.iter().map(|(key, _)| *key).zip(places).collect())
    }

    /// Changes the index, and the count of what is in it.
    fn apply(&self, changes: &[(PieceKey, Option<Place>)]) -> io::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut entries = self.counts.entries.get();
        for (key, place) in changes {
            match (self.index.get(key)?, place) {
                (None, Some(_)) => entries += 1,
                (Some(_), None) => entries = entries.saturating_sub(1),
                _ => {}
            }
        }
        self.counts.entries.set(entries);
        self.index.apply(changes, entries)
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

    /// Something could not be written.
    fn give_way(&self, error: &io::Error) {
        if !self.counts.is_failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "the disk cache cannot be written; its oldest content goes");
        }
        let oldest = self.state().oldest();
        if let Some(oldest) = oldest {
            self.give_up(&oldest, &mut 0);
        }
    }

    /// Removes a slab. Of what was read of it up to `second_chance_bytes` move to the newest slab.
    fn give_up(&self, slab: &Slab, second_chance_bytes: &mut u64) {
        // What the index is not told it finds out when somebody asks.
        let moved = self.move_on(slab, second_chance_bytes);
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
        if let Err(error) = moved.and_then(|()| self.files.remove(&path)) {
            tracing::debug!(%error, slab = path, "a slab of the disk cache goes with an error");
            // It was not the removal that failed, or it fails again.
            let _ = self.files.remove(&path);
        }
    }

    /// Moves what was read of a slab, and makes the index forget the rest.
    fn move_on(&self, slab: &Slab, second_chance_bytes: &mut u64) -> io::Result<()> {
        let mut moving: Vec<(PieceKey, Bytes)> = Vec::new();
        let mut moving_bytes = 0;
        let mut forgotten = Vec::new();
        slab.walk(|key, place, piece| {
            let is_current = self.index.get(&key)? == Some(place);
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

/// What a piece takes in a slab.
fn entry_bytes(piece: &Bytes) -> u64 {
    (HEADER_BYTES + piece.len()) as u64
}
