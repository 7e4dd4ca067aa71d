//! One generation: a keyspace of fjall, read by name and scanned at recovery.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use fjall::Keyspace;
use mvps_core::env::{BufferError, BufferHandle, CHECKSUM_UNIT_BYTES, RecordEntry, RecordRef};
use mvps_core::ids::{Generation, Lsn};

use super::errors::read_error;
use super::files::DatabaseDirectory;
use super::record::{
    self, BatchStamp, Header, Key, Seed, StoredRun, content_key, decode_empty_batch, decode_header,
    inline_offset, record_key,
};

/// A generation that is open for reading. Whoever holds one keeps it readable, its database's
/// directory in place, and the store's locked.
pub struct StoredGeneration {
    /// Its number.
    pub generation: Generation,
    seed: Seed,
    /// Taken only when this is dropped.
    held: Option<(Keyspace, Arc<DatabaseDirectory>)>,
    deleted: AtomicBool,
}

/// What a scan found.
pub struct Scan {
    /// Every record, ascending by name.
    pub records: Vec<RecordEntry>,
    /// The batches they came in, by ordinal, each with the number of its records found.
    pub batches: BTreeMap<u64, (BatchStamp, u32)>,
}

impl StoredGeneration {
    /// Wraps a keyspace.
    pub fn new(
        generation: Generation,
        keyspace: Keyspace,
        seed: Seed,
        directory: Arc<DatabaseDirectory>,
    ) -> Self {
        Self {
            generation,
            seed,
            held: Some((keyspace, directory)),
            deleted: AtomicBool::new(false),
        }
    }

    /// The keyspace.
    pub fn keyspace(&self) -> &Keyspace {
        let held = self.held.as_ref();
        &held
            .expect("the keyspace is taken only when this is dropped")
            .0
    }

    /// Notes that the generation was dropped from the store: its files go with the last holder.
    pub fn mark_deleted(&self) {
        self.deleted.store(true, Ordering::Relaxed);
    }

    fn corrupt(&self, what: &str, at: RecordRef) -> BufferError {
        BufferError::Corrupt {
            reason: format!(
                "{what}: page {} of LSN {} in generation {}",
                at.first, at.lsn, self.generation
            ),
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BufferError> {
        let value = self.keyspace().get(key).map_err(read_error)?;
        Ok(value.map(Bytes::from))
    }

    /// Reads all of it, verifying every header.
    ///
    /// # Errors
    /// [`BufferError::Corrupt`] if a header is damaged, content is missing, or there is something
    /// that is not ours.
    pub fn scan(&self) -> Result<Scan, BufferError> {
        let mut scan = Scan {
            records: Vec::new(),
            batches: BTreeMap::new(),
        };
        // The record whose content has to be the next key.
        let mut content_due: Option<(RecordRef, u32)> = None;
        for guard in self.keyspace().iter() {
            let (key, value) = guard.into_inner().map_err(read_error)?;
            let foreign = || BufferError::Corrupt {
                reason: format!("an unknown key in generation {}", self.generation),
            };
            let key = Key::parse(&key).ok_or_else(foreign)?;
            if let Some((at, bytes)) = content_due.take() {
                if key != Key::Content(at) || value.len() != bytes as usize {
                    return Err(self.corrupt("content is missing", at));
                }
                continue;
            }
            match key {
                Key::Content(at) => return Err(self.corrupt("content without a record", at)),
                Key::EmptyBatch(lsn) => {
                    let header = decode_empty_batch(self.seed, lsn, &value);
                    let header = header.ok_or_else(foreign)?;
                    scan.batches
                        .insert(header.stamp.mark.ordinal, (header.stamp, 0));
                }
                Key::Record(at) => {
                    let header = decode_header(self.seed, at, &value);
                    let header = header.ok_or_else(|| self.corrupt("header is damaged", at))?;
                    if let StoredRun::Separate { bytes } = header.run {
                        content_due = Some((at, bytes));
                    }
                    self.note(&mut scan, at, &header)?;
                }
            }
        }
        match content_due {
            Some((at, _)) => Err(self.corrupt("content is missing", at)),
            None => Ok(scan),
        }
    }

    fn note(&self, scan: &mut Scan, at: RecordRef, header: &Header) -> Result<(), BufferError> {
        let stamp = header.stamp;
        let batch = scan.batches.entry(stamp.mark.ordinal).or_insert((stamp, 0));
        batch.1 += 1;
        let shape = header.run.header();
        match shape {
            Some(header) if batch.0 == stamp => {
                scan.records.push(RecordEntry { at, header });
                Ok(())
            }
            _ => Err(self.corrupt("header contradicts another of its batch", at)),
        }
    }

    /// Checks that the batches found lead without a gap from `start` to `end`, if that is known.
    /// Returns the last LSN.
    ///
    /// # Errors
    /// [`BufferError::Corrupt`] if a batch or a record is missing.
    pub fn check_chain(
        &self,
        scan: &Scan,
        start: Lsn,
        end: Option<Lsn>,
    ) -> Result<Lsn, BufferError> {
        let missing = |what: String| BufferError::Corrupt {
            reason: format!("generation {}: {what}", self.generation),
        };
        let mut last = start;
        for (ordinal, (stamp, found)) in &scan.batches {
            if stamp.previous_lsn != last {
                return Err(missing(format!(
                    "batch {ordinal} follows LSN {}, but LSN {last} is the last found before it",
                    stamp.previous_lsn
                )));
            }
            if stamp.records != *found {
                return Err(missing(format!(
                    "batch {ordinal} has {} records, found {found}",
                    stamp.records
                )));
            }
            last = stamp.last_lsn;
        }
        match end {
            Some(end) if end != last => Err(missing(format!(
                "it was sealed at LSN {end}, but LSN {last} is the last found"
            ))),
            _ => Ok(last),
        }
    }
}

impl BufferHandle for StoredGeneration {
    fn read(&self, at: RecordRef, range: Range<usize>) -> Result<Bytes, BufferError> {
        let absent = || self.corrupt("there is no such data record", at);
        let value = self.get(&record_key(at))?.ok_or_else(absent)?;
        let header = decode_header(self.seed, at, &value);
        let header = header.ok_or_else(|| self.corrupt("header is damaged", at))?;
        let content = match header.run {
            StoredRun::Inline { .. } => value.slice(inline_offset(header.run)..),
            StoredRun::Separate { .. } => self.get(&content_key(at))?.ok_or_else(absent)?,
            StoredRun::Hole { .. } | StoredRun::EmptyBatch => return Err(absent()),
        };
        assert!(
            range.start.is_multiple_of(CHECKSUM_UNIT_BYTES)
                && range.end.is_multiple_of(CHECKSUM_UNIT_BYTES),
            "reads are aligned, {range:?} is not"
        );
        if range.end > content.len() || range.start > range.end {
            return Err(self.corrupt(&format!("{range:?} is outside the record"), at));
        }
        let first_unit = range.start / CHECKSUM_UNIT_BYTES;
        let wanted = content.slice(range);
        if record::content_matches(self.seed, at, &value, first_unit, &wanted) {
            Ok(wanted)
        } else {
            Err(self.corrupt("content does not match its checksum", at))
        }
    }
}

impl Drop for StoredGeneration {
    fn drop(&mut self) {
        // Deleting files and freeing a large memtable takes milliseconds.
        if self.deleted.load(Ordering::Relaxed)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let held = self.held.take();
            drop(runtime.spawn_blocking(move || drop(held)));
        }
    }
}
