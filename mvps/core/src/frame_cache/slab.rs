//! One slab: a file of entries, one behind the other.
//!
//! Invariants: a piece is returned only if the header at its place names it, with its length. What
//! was appended is never written over; a failed append is.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes};

use super::format::{EntryHeader, HEADER_BYTES, SlabHeader};
use super::index::Place;
use crate::env::{File, Files, OpenMode};
use crate::ids::PieceKey;
use crate::mutant::is;

/// Longest piece: frames and leaves of maps take half of that at most. What an index says is longer
/// is not believed.
pub const PIECE_MAX_BYTES: usize = 128 << 10;

/// What is read at once while a slab is walked through.
const WALK_BYTES: usize = 1 << 20;

/// Entries that begin in the same bytes share one note of having been read: 8 KiB of memory for a
/// slab of 64 MiB. Few frames are shorter.
const NOTE_BYTES: u32 = 1024;

const NAME_PREFIX: &str = "slab-";

/// The file of a slab.
pub fn file_name(number: u64) -> String {
    format!("{NAME_PREFIX}{number:016x}")
}

/// Whether a file of this name is meant to be a slab.
pub fn is_slab(name: &str) -> bool {
    name.starts_with(NAME_PREFIX)
}

/// An open slab.
pub struct Slab {
    /// Its number.
    pub number: u64,
    seed: u64,
    file: Arc<dyn File>,
    length: AtomicU64,
    /// One bit for each [`NOTE_BYTES`]: something there was read since it was written.
    read: Vec<AtomicU64>,
}

/// What a place turned out to be.
pub enum Found {
    /// The piece.
    Piece(Bytes),
    /// Another entry, or none.
    Other,
}

impl Slab {
    /// Makes a slab of up to `room_bytes`.
    pub fn make(
        files: &dyn Files,
        folder: &str,
        header: SlabHeader,
        room_bytes: u64,
    ) -> io::Result<Self> {
        let path = format!("{folder}/{}", file_name(header.number));
        let file = files.open(&path, OpenMode::New)?;
        let written = file.write_at(0, &[IoSlice::new(&header.encode())]);
        if let Err(error) = written {
            // What is left of it is removed when the cache is opened next.
            let _ = files.remove(&path);
            return Err(error);
        }
        Ok(Self::new(header, file, HEADER_BYTES as u64, room_bytes))
    }

    /// Opens a slab that an earlier process wrote; `None` if the file is none of this index.
    pub fn open(
        files: &dyn Files,
        folder: &str,
        name: &str,
        index: u64,
        length_max: u64,
    ) -> io::Result<Option<Self>> {
        let file = files.open(&format!("{folder}/{name}"), OpenMode::Existing)?;
        let mut header = [0; HEADER_BYTES];
        let read = file.read_at(0, &mut header)?;
        let length = file.length()?;
        let header = SlabHeader::decode(&header[..read]);
        let described =
            |it: &SlabHeader| it.index == index || is("slabs of another index are kept");
        let ours =
            |it: &SlabHeader| described(it) && name == file_name(it.number) && length <= length_max;
        Ok(header
            .filter(ours)
            .map(|header| Self::new(header, file, length, length)))
    }

    fn new(header: SlabHeader, file: Arc<dyn File>, length: u64, room_bytes: u64) -> Self {
        let words = room_bytes.div_ceil(u64::from(NOTE_BYTES) * 64);
        Self {
            number: header.number,
            seed: header.seed,
            file,
            length: AtomicU64::new(length),
            read: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Its length.
    pub fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }

    /// Appends entries; returns their places. Only one caller at a time.
    pub fn append(&self, pieces: &[(PieceKey, Bytes)]) -> io::Result<Vec<Place>> {
        let start = self.length();
        let mut end = start;
        let mut places = Vec::with_capacity(pieces.len());
        let mut headers = Vec::with_capacity(pieces.len());
        for (key, piece) in pieces {
            let offset = u32::try_from(end).expect("a slab is shorter than 4 GiB");
            let bytes = u32::try_from(piece.len()).expect("a piece is short");
            headers.push(EntryHeader { key: *key, bytes }.encode(self.seed, offset));
            places.push(Place {
                slab: self.number,
                offset,
                bytes,
            });
            end += (HEADER_BYTES + piece.len()) as u64;
        }
        let entries = headers.iter().zip(pieces);
        let parts = entries.flat_map(|(header, (_, piece))| [&header[..], piece]);
        let parts: Vec<_> = parts.map(IoSlice::new).collect();
        if let Err(error) = self.file.write_at(start, &parts) {
            // What there is of it takes room; no place leads there.
            let _ = self.file.set_length(start);
            return Err(error);
        }
        self.length.store(end, Ordering::Relaxed);
        Ok(places)
    }

    /// Reads the piece at `place`, and notes that it was read.
    pub fn read(&self, key: &PieceKey, place: &Place) -> io::Result<Found> {
        if place.bytes as usize > PIECE_MAX_BYTES {
            return Ok(Found::Other);
        }
        let mut entry = vec![0; HEADER_BYTES + place.bytes as usize];
        if self.file.read_at(u64::from(place.offset), &mut entry)? < entry.len() {
            return Ok(Found::Other);
        }
        let header = EntryHeader::decode(self.seed, place.offset, &entry);
        let names_it = |it: &EntryHeader| {
            let mut named = it.key;
            if is("cache entry served under another object's name") {
                (named.suffix, named.sequence) = (key.suffix, key.sequence);
            }
            named == *key && it.bytes == place.bytes
        };
        if !is("index place trusted without the header") && !header.as_ref().is_some_and(names_it) {
            return Ok(Found::Other);
        }
        let (word, bit) = note_of(place.offset);
        if let Some(word) = self.read.get(word) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Ok(Found::Piece(Bytes::from(entry).slice(HEADER_BYTES..)))
    }

    /// Whether the entry that begins at `offset`, or one that begins beside it, was read since it
    /// was written or the cache was opened.
    pub fn was_read(&self, offset: u32) -> bool {
        let (word, bit) = note_of(offset);
        let word = self.read.get(word).map(|it| it.load(Ordering::Relaxed));
        word.is_some_and(|it| it & bit != 0)
    }

    /// Calls `each` with every entry, in order, up to the first that is damaged.
    pub fn walk<E: From<io::Error>>(
        &self,
        mut each: impl FnMut(PieceKey, Place, Bytes) -> Result<(), E>,
    ) -> Result<(), E> {
        let length = self.length();
        let mut window = Bytes::new();
        let mut at = HEADER_BYTES as u64;
        while at < length {
            let offset = u32::try_from(at).map_err(io::Error::other)?;
            if window.len() < HEADER_BYTES {
                window = self.bytes_at(at, WALK_BYTES)?;
            }
            let Some(header) = EntryHeader::decode(self.seed, offset, &window) else {
                return Ok(());
            };
            let end = HEADER_BYTES + header.bytes as usize;
            if end > HEADER_BYTES + PIECE_MAX_BYTES {
                return Ok(());
            }
            if window.len() < end {
                window = self.bytes_at(at, WALK_BYTES)?;
            }
            if window.len() < end {
                return Ok(());
            }
            let place = Place {
                slab: self.number,
                offset,
                bytes: header.bytes,
            };
            each(header.key, place, window.slice(HEADER_BYTES..end))?;
            window.advance(end);
            at += end as u64;
        }
        Ok(())
    }

    /// So many bytes from `at` on, fewer at the end.
    fn bytes_at(&self, at: u64, count: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; count];
        let read = self.file.read_at(at, &mut bytes)?;
        bytes.truncate(read);
        Ok(Bytes::from(bytes))
    }
}

/// The word and the bit in it of an entry that begins at `offset`.
fn note_of(offset: u32) -> (usize, u64) {
    let note = offset / NOTE_BYTES;
    ((note / 64) as usize, 1 << (note % 64))
}
