//! The bytes of one file: as processes see them, and as they are on the medium.
//!
//! A sector is dirty from its writing to the next sync, whether that succeeds or not. A sector that
//! a failed sync left behind differs from the medium and is not dirty: nothing brings it to the
//! disk but another write. The length behaves like a sector.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::env::{Entropy, EntropyExt};

/// What a disk writes as a whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;

/// One file without its name.
#[derive(Default)]
pub(super) struct Content {
    /// As processes see it.
    cached: Vec<u8>,
    /// As it is on the medium. What is beyond its end reads as zero once the file is longer.
    durable: Vec<u8>,
    /// Numbers of the sectors the next sync brings to the medium. All begin before the end.
    dirty: BTreeSet<usize>,
    /// The next sync makes the length durable.
    length_dirty: bool,
}

impl Content {
    /// A file that is on the medium already.
    pub(super) fn durable(bytes: Vec<u8>) -> Self {
        Self {
            cached: bytes.clone(),
            durable: bytes,
            ..Self::default()
        }
    }

    /// What processes see.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.cached
    }

    /// How many bytes of the disk the file takes.
    pub(super) fn occupied_bytes(&self) -> u64 {
        self.cached.len() as u64
    }

    /// How many sectors a power cut could lose. A changed length counts if no sector does.
    pub(super) fn unsynced(&self) -> usize {
        let length = self.length_dirty && self.cached.len() != self.durable.len();
        self.dirty.len().max(usize::from(length))
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let Some(there) = self.cached.get(from..) else {
            return 0;
        };
        let count = there.len().min(buffer.len());
        buffer[..count].copy_from_slice(&there[..count]);
        count
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let range = offset..offset + bytes.len();
        if range.end > self.cached.len() {
            self.grow(range.end);
        }
        self.length_dirty |= range.end > self.durable.len();
        self.cached[range.clone()].copy_from_slice(bytes);
        self.dirty.extend(sectors(range));
    }

    pub(super) fn set_length(&mut self, length: usize) {
        if length > self.cached.len() {
            self.grow(length);
        } else {
            self.cached.truncate(length);
            self.forget_dirty_beyond(length);
        }
        self.length_dirty = true;
    }

    fn grow(&mut self, length: usize) {
        // The medium may still have what an unsynced cut took away; readers see zeroes there.
        let stale = self.cached.len()..length.min(self.durable.len());
        self.dirty.extend(sectors(stale));
        self.cached.resize(length, 0);
        self.length_dirty = true;
    }

    fn forget_dirty_beyond(&mut self, length: usize) {
        self.dirty.retain(|sector| sector * SECTOR_BYTES < length);
    }

    pub(super) fn sync(&mut self) {
        if std::mem::take(&mut self.length_dirty) {
            self.durable.resize(self.cached.len(), 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            copy_sector(&self.cached, &mut self.durable, sector);
        }
    }

    /// A sync that fails: the system tries once, and calls everything clean.
    pub(super) fn fail_sync(&mut self) {
        self.dirty.clear();
        self.length_dirty = false;
    }

    /// Each dirty sector and the length is kept or lost; what is kept is durable.
    pub(super) fn power_cut(&mut self, entropy: &dyn Entropy) {
        let length = self.length_after_power_cut(entropy);
        let longest = self.cached.len().max(self.durable.len());
        self.durable.resize(longest, 0);
        for sector in std::mem::take(&mut self.dirty) {
            if entropy.below(2) == 0 {
                copy_sector(&self.cached, &mut self.durable, sector);
            }
        }
        self.durable.truncate(length);
        self.revert();
    }

    /// The new length, the old one, or one between.
    fn length_after_power_cut(&self, entropy: &dyn Entropy) -> usize {
        let (new, old) = (self.cached.len(), self.durable.len());
        if !self.length_dirty || new == old {
            return old;
        }
        match entropy.below(3) {
            0 => new,
            1 => old,
            _ => {
                let between = entropy.below(new.abs_diff(old) as u64);
                new.min(old) + usize::try_from(between).expect("it is below a usize")
            }
        }
    }

    /// Everything is as it is on the medium.
    pub(super) fn revert(&mut self) {
        self.cached.clone_from(&self.durable);
        self.dirty.clear();
        self.length_dirty = false;
    }

    /// Damages the file, in both views, as far as it reaches.
    pub(super) fn overwrite(&mut self, offset: usize, bytes: &[u8]) {
        for view in [&mut self.cached, &mut self.durable] {
            if let Some(there) = view.get_mut(offset..) {
                let count = there.len().min(bytes.len());
                there[..count].copy_from_slice(&bytes[..count]);
            }
        }
    }

    /// Cuts the file in both views.
    pub(super) fn truncate(&mut self, length: usize) {
        self.cached.truncate(length);
        self.durable.truncate(length);
        self.forget_dirty_beyond(length);
    }
}

/// The numbers of the sectors that a range of bytes touches.
fn sectors(bytes: Range<usize>) -> Range<usize> {
    if bytes.is_empty() {
        return 0..0;
    }
    bytes.start / SECTOR_BYTES..bytes.end.div_ceil(SECTOR_BYTES)
}

/// Copies a sector as far as both sides reach.
fn copy_sector(from: &[u8], to: &mut [u8], sector: usize) {
    let start = sector * SECTOR_BYTES;
    let end = (start + SECTOR_BYTES).min(from.len()).min(to.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}
