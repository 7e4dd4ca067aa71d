//! What is in a log file: the blocks that follow one another, and whether a later one was there.

use std::io;

use super::block::{ALIGNMENT, Block, FileHeader, HEADER_BYTES, Seed, decode, table_bytes};
use crate::env::File;

/// How much is read at once: a few headers of small blocks, little beside the content of large ones.
const WINDOW_BYTES: usize = 16 << 10;

/// A part of the file in memory.
struct Window<'a> {
    file: &'a dyn File,
    length: u64,
    offset: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn File) -> io::Result<Self> {
        Ok(Self {
            file,
            length: file.length()?,
            offset: 0,
            bytes: Vec::new(),
        })
    }

    /// `length` bytes from `offset` on; fewer at the end of the file.
    fn get(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let wanted_end = self.length.min(offset.saturating_add(length as u64));
        let end = self.offset + self.bytes.len() as u64;
        if offset < self.offset || wanted_end > end {
            self.bytes.resize(length.max(WINDOW_BYTES), 0);
            let read = self.file.read_at(offset, &mut self.bytes)?;
            self.bytes.truncate(read);
            self.offset = offset;
        }
        let start = usize::try_from(offset - self.offset).unwrap_or(usize::MAX);
        let rest = self.bytes.get(start..).unwrap_or_default();
        Ok(&rest[..rest.len().min(length)])
    }

    /// The block at `offset`, if one begins there and its content does not end behind the file.
    fn block(&mut self, seed: Seed, offset: u64) -> io::Result<Option<Block>> {
        let Some(table) = table_bytes(seed, offset, self.get(offset, HEADER_BYTES)?) else {
            return Ok(None);
        };
        if table as u64 > self.length.saturating_sub(offset) {
            return Ok(None);
        }
        let bytes = self.get(offset, HEADER_BYTES + table)?;
        Ok(decode(seed, offset, bytes))
    }
}

/// What was found in a file.
pub struct Scan {
    /// What it says of itself; `None` if that is damaged.
    pub header: Option<FileHeader>,
    /// The blocks from its beginning on, each following the one before it. Their content was not
    /// looked at.
    pub blocks: Vec<Block>,
    /// The highest ordinal that was synced when a block was written that lies behind the first one
    /// missing.
    pub proven_behind: u64,
}

/// Reads the headers of all blocks of `file`, of which the first has the ordinal `first`.
///
/// # Errors
/// What the system says.
pub fn scan(file: &dyn File, seed: Seed, first: u64) -> io::Result<Scan> {
    let mut window = Window::new(file)?;
    let header = FileHeader::decode(seed, window.get(0, HEADER_BYTES)?);
    let mut found = Scan {
        header,
        blocks: Vec::new(),
        proven_behind: 0,
    };
    let mut next = first;
    let mut offset = HEADER_BYTES as u64;
    while let Some(block) = window.block(seed, offset)? {
        if block.stamp.ordinal != next || block.end() > window.length {
            break;
        }
        offset = block.end();
        next += 1;
        found.blocks.push(block);
    }
    // Whole blocks behind the first one that is not tell what was synced.
    while offset < window.length {
        if let Some(block) = window.block(seed, offset)? {
            found.proven_behind = found.proven_behind.max(block.stamp.synced);
        }
        offset += ALIGNMENT;
    }
    Ok(found)
}
