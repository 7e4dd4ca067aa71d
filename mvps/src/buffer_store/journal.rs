//! Reads fjall's journals without fjall, to know before opening what opening will find.
//!
//! fjall stops, skips or refuses at damage in ways that depend on where it is (see the decision
//! file on the buffer layout); this reader only says what is there: whole batches, and where the
//! first bytes are that are neither a batch nor unused space. It changes nothing.
//!
//! ```text
//! start  u8 1, u32 items, u64 sequence number
//! item   u8 2, u8 value type, u8 compression (0), u64 keyspace, u16 key length,
//!        u32 length, u32 stored length, key, value
//! end    u8 3, u64 xxh3 of the items' bytes, "FJL" 3
//! ```

use std::io::{self, Read};

use xxhash_rust::xxh3::Xxh3Default;

const TAG_START: u8 = 1;
const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
const START_BYTES: usize = 13;
const ITEM_BYTES: usize = 21;
const END_BYTES: usize = 13;
const TRAILER: &[u8; 4] = b"FJL\x03";

/// No value of ours is longer (metadata is below 64 KiB, content at most 128 KiB, and headers are
/// small), so a longer one is damage and not worth memory.
const VALUE_MAX_BYTES: usize = 1 << 20;

/// A whole batch. Its first item says which batch it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalBatch {
    /// Offset of its first byte.
    pub start: u64,
    /// Offset behind its last byte.
    pub end: u64,
    /// fjall's sequence number, which no checksum covers.
    pub sequence: u64,
    /// Its first item.
    pub first: JournalItem,
}

/// One key-value pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalItem {
    /// The key.
    pub key: Vec<u8>,
    /// The value; empty for a tombstone.
    pub value: Vec<u8>,
}

/// What a reader found next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A whole batch with a matching checksum.
    Batch(JournalBatch),
    /// The end of the file, or a zero: unused space, if nothing but zeroes follows.
    End,
    /// A batch begins here, and is not whole.
    Damaged,
}

/// Reads batches one after the other.
pub struct JournalReader<R> {
    source: R,
    offset: u64,
}

enum Torn {
    Damaged,
    Io(io::Error),
}

impl From<io::Error> for Torn {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged,
            _ => Self::Io(error),
        }
    }
}

impl<R: Read> JournalReader<R> {
    /// Reads `source`, whose first byte is at `offset` of the journal.
    pub fn new(source: R, offset: u64) -> Self {
        Self { source, offset }
    }

    /// Offset of the first byte that no returned batch covers.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next batch, or why there is none. After `End` or `Damaged` the reader is of no use.
    ///
    /// # Errors
    /// If reading fails.
    pub fn step(&mut self) -> io::Result<Step> {
        let mut tag = [0];
        if self.source.read(&mut tag)? == 0 || tag[0] == 0 {
            return Ok(Step::End);
        }
        if tag[0] != TAG_START {
            return Ok(Step::Damaged);
        }
        match self.batch() {
            Ok(batch) => {
                self.offset = batch.end;
                Ok(Step::Batch(batch))
            }
            Err(Torn::Damaged) => Ok(Step::Damaged),
            Err(Torn::Io(error)) => Err(error),
        }
    }

    fn batch(&mut self) -> Result<JournalBatch, Torn> {
        let mut start = [0; START_BYTES - 1];
        self.source.read_exact(&mut start)?;
        let items = u32::from_le_bytes([start[0], start[1], start[2], start[3]]);
        let sequence = u64::from_le_bytes(start[4..].try_into().map_err(|_| Torn::Damaged)?);
        let mut length = (START_BYTES + END_BYTES) as u64;
        let mut hasher = Xxh3Default::new();
        let mut buffer = Vec::new();
        let mut first = None;
        for _ in 0..items {
            let key_bytes = self.item(&mut buffer)?;
            hasher.update(&buffer);
            length += buffer.len() as u64;
            if first.is_none() {
                let (key, value) = buffer[ITEM_BYTES..].split_at(key_bytes);
                first = Some(JournalItem {
                    key: key.to_vec(),
                    value: value.to_vec(),
                });
            }
        }
        let mut end = [0; END_BYTES];
        self.source.read_exact(&mut end)?;
        let whole =
            end[0] == TAG_END && end[1..9] == hasher.digest().to_le_bytes() && end[9..] == *TRAILER;
        match first {
            Some(first) if whole => Ok(JournalBatch {
                start: self.offset,
                end: self.offset + length,
                sequence,
                first,
            }),
            _ => Err(Torn::Damaged),
        }
    }

    /// Reads one item into `buffer` and returns the length of its key.
    fn item(&mut self, buffer: &mut Vec<u8>) -> Result<usize, Torn> {
        let mut head = [0; ITEM_BYTES];
        self.source.read_exact(&mut head)?;
        let key_bytes = usize::from(u16::from_le_bytes([head[11], head[12]]));
        let length = [head[13], head[14], head[15], head[16]];
        let value_bytes = u32::from_le_bytes(length) as usize;
        let sane = head[0] == TAG_ITEM
            && head[2] == 0
            && head[17..21] == length
            && value_bytes <= VALUE_MAX_BYTES;
        if !sane {
            return Err(Torn::Damaged);
        }
        buffer.clear();
        buffer.extend_from_slice(&head);
        buffer.resize(ITEM_BYTES + key_bytes + value_bytes, 0);
        self.source.read_exact(&mut buffer[ITEM_BYTES..])?;
        Ok(key_bytes)
    }
}

/// Every whole batch that begins anywhere in `bytes`, which begin at `offset` of the journal.
/// Batches inside another batch's content are found too: the caller tells them by their headers.
pub fn batches_within(bytes: &[u8], offset: u64) -> impl Iterator<Item = JournalBatch> + '_ {
    let begins =
        |at: &usize| bytes[*at] == TAG_START && bytes.get(at + START_BYTES) == Some(&TAG_ITEM);
    let whole = move |at: usize| {
        let mut reader = JournalReader::new(&bytes[at..], offset + at as u64);
        match reader.step() {
            Ok(Step::Batch(batch)) => Some(batch),
            _ => None,
        }
    };
    (0..bytes.len()).filter(begins).filter_map(whole)
}
