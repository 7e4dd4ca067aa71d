//! Checks the journals of a database before fjall opens them, and cuts a torn tail.
//!
//! A power cut may leave any part of the unsynced tail unwritten. fjall cannot open such a journal
//! at all, or drops what follows damage without a word. So this check decides first:
//!
//! - The batches of all journals are whole and their ordinals consecutive, except for one damaged
//!   place in the active (last) journal.
//! - If anything shows that a batch at or behind that place was synced (the file `synced`, or a
//!   later batch that says so), the store is refused and nothing is changed.
//! - Otherwise the journal is cut there. The bytes cut off are kept in a file beside it.
//!
//! This holds for retired databases too. Their commits were synced when the next database took
//! over, which knows up to which ordinal ([`switch`](super::switch)); so what may be cut there are
//! notes written since.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use mvps_core::env::BufferError;

use super::errors::io_error;
use super::files::{self, Cut};
use super::journal::{JournalBatch, JournalItem, JournalReader, Step, batches_within};
use super::record::{Key, Mark, Seed, decode_empty_batch, decode_header, decode_meta};

/// Between the sequence numbers of neighbouring batches lie only those of keyspaces created and
/// deleted. A jump beyond this is a flipped bit.
const SEQUENCE_GAP_MAX: u64 = 1 << 20;

const READ_BUFFER_BYTES: usize = 1 << 20;

/// The last batch seen so far.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    ordinal: u64,
    sequence: Option<u64>,
}

/// Checks all journals in `directory`, and cuts a torn tail off the active one. `synced` is the
/// highest ordinal known to be synced.
///
/// # Errors
/// [`BufferError::Corrupt`] if synced data is damaged or missing, [`BufferError::Io`].
pub fn check_journals(
    directory: &Path,
    seed: Seed,
    synced: u64,
) -> Result<Option<Cut>, BufferError> {
    let journals = files::journals(directory).map_err(io_error(directory))?;
    let mut last = Last::default();
    let mut cut = None;
    for (position, (_, path)) in journals.iter().enumerate() {
        let active = position + 1 == journals.len();
        cut = check_journal(path, seed, synced, active, &mut last)?;
    }
    Ok(cut)
}

fn check_journal(
    path: &Path,
    seed: Seed,
    synced: u64,
    active: bool,
    last: &mut Last,
) -> Result<Option<Cut>, BufferError> {
    let failed = io_error(path);
    let file = File::open(path).map_err(&failed)?;
    let length = file.metadata().map_err(&failed)?.len();
    let mut reader = JournalReader::new(BufReader::with_capacity(READ_BUFFER_BYTES, file), 0);
    let damaged = loop {
        match reader.step().map_err(&failed)? {
            Step::Batch(batch) => *last = follow(path, seed, *last, &batch)?,
            Step::End => break false,
            Step::Damaged => break true,
        }
    };
    let offset = reader.offset();
    let tail = read_tail(path, offset, length).map_err(&failed)?;
    if !damaged && tail.is_empty() {
        return Ok(None);
    }
    let refusal = |what: &str| {
        Err(BufferError::Corrupt {
            reason: format!(
                "{} is damaged at byte {offset}, behind batch {}: {what}",
                path.display(),
                last.ordinal
            ),
        })
    };
    if !active {
        return refusal("a later journal follows, so this one was synced whole");
    }
    let evidence = evidence(&tail, offset, seed).max(synced);
    if evidence > last.ordinal {
        return refusal(&format!("batch {evidence} was synced"));
    }
    files::cut(path, offset, &tail).map(Some).map_err(failed)
}

/// Checks that `batch` follows `last`.
fn follow(path: &Path, seed: Seed, last: Last, batch: &JournalBatch) -> Result<Last, BufferError> {
    let refusal = |what: String| BufferError::Corrupt {
        reason: format!("{}, batch at byte {}: {what}", path.display(), batch.start),
    };
    let mark = mark_of(seed, &batch.first)
        .ok_or_else(|| refusal("it is damaged, or was written for another image".to_owned()))?;
    let Last { ordinal, sequence } = last;
    let Some(sequence) = sequence else {
        return Ok(Last {
            ordinal: mark.ordinal,
            sequence: Some(batch.sequence),
        });
    };
    if mark.ordinal != ordinal + 1 {
        let found = mark.ordinal;
        return Err(refusal(format!("batch {found} follows batch {ordinal}")));
    }
    if batch.sequence <= sequence || batch.sequence - sequence > SEQUENCE_GAP_MAX {
        let found = batch.sequence;
        return Err(refusal(format!(
            "sequence number {found} follows {sequence}"
        )));
    }
    Ok(Last {
        ordinal: mark.ordinal,
        sequence: Some(batch.sequence),
    })
}

/// Whatever is in the file from `offset` on, without the zeroes at its end.
fn read_tail(path: &Path, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut end = length;
    let mut chunk = vec![0; READ_BUFFER_BYTES];
    let zeroes = vec![0; READ_BUFFER_BYTES];
    // From behind, so that unused space costs no memory. Most of it is unused, so whole chunks are
    // compared before single bytes are.
    while end > offset {
        let start = end.saturating_sub(READ_BUFFER_BYTES as u64).max(offset);
        let chunk = &mut chunk[..usize::try_from(end - start).map_err(io::Error::other)?];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(chunk)?;
        if *chunk != zeroes[..chunk.len()] {
            let last = chunk.iter().rposition(|b| *b != 0);
            end = start + last.expect("a byte is not zero") as u64 + 1;
            break;
        }
        end = start;
    }
    let mut tail = vec![0; usize::try_from(end - offset).map_err(io::Error::other)?];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut tail)?;
    Ok(tail)
}

/// The highest ordinal that any whole batch in `tail` says was synced.
fn evidence(tail: &[u8], offset: u64, seed: Seed) -> u64 {
    batches_within(tail, offset)
        .filter_map(|batch| mark_of(seed, &batch.first))
        .map(|mark| mark.synced)
        .max()
        .unwrap_or_default()
}

/// The mark of the batch whose first item this is.
fn mark_of(seed: Seed, first: &JournalItem) -> Option<Mark> {
    let header = match Key::parse(&first.key) {
        Some(Key::Record(at)) => decode_header(seed, at, &first.value)?,
        Some(Key::EmptyBatch(lsn)) => decode_empty_batch(seed, lsn, &first.value)?,
        Some(Key::Content(_)) => return None,
        None => return decode_meta(seed, &first.key, &first.value).map(|(mark, _)| mark),
    };
    Some(header.stamp.mark)
}
