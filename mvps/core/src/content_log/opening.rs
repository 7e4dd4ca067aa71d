//! Openings: what a buffer store holds after whatever happened to it.
//!
//! Blocks follow one another over all files. The log ends before the first one that is missing or
//! not whole; what lies behind was never synced, or the store is damaged. Everything above what is
//! known to be synced is written once more, byte by byte where it is, and synced: the last process
//! may have met a sync that failed, after which the system calls bytes written that are not.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::block::{Block, FileHeader, HEADER_BYTES, Seed, StoreId};
use super::generation::LogGeneration;
use super::scan::scan;
use super::superblock::{Listed, MARK_BYTES, MARK_OFFSET, SLOT_BYTES, Superblock, decode_mark};
use super::superblock_file::write_mark;
use crate::env::{
    BufferError, Entropy, EntropyExt, File, Files, FolderLock, OpenMode, is_want_of_room,
};
use crate::ids::{Generation, ImageId, Lsn};
use crate::mutant::is;

/// The superblock's file.
pub const SUPERBLOCK: &str = "superblock";

const LOG_SUFFIX: &str = ".log";

/// What says that a folder holds a store of the format before this one.
const EARLIER_FORMAT: [&str; 2] = ["store", "fjall"];

/// An open store as it was found.
pub struct Opened {
    /// Keeps others out.
    pub lock: Box<dyn FolderLock>,
    /// The superblock's file.
    pub superblock_file: Arc<dyn File>,
    /// What is in it, synced.
    pub superblock: Superblock,
    /// The generations, oldest first, and where the content of each ends.
    pub generations: Vec<(Arc<LogGeneration>, u64)>,
    /// The ordinal of the last block. All are synced.
    pub ordinal: u64,
    /// LSN of the last commit in any block.
    pub last_lsn: Lsn,
}

/// The name of a generation's file.
#[must_use]
pub fn log_name(generation: Generation) -> String {
    format!("{:020}{LOG_SUFFIX}", generation.0)
}

/// Whether a generation's file can have this name.
fn is_log(name: &str) -> bool {
    let number = name.strip_suffix(LOG_SUFFIX).and_then(|it| it.parse().ok());
    number.is_some_and(|number| log_name(Generation(number)) == name)
}

/// The superblock's file, and the newest state in it.
type ReadSuperblock = (Arc<dyn File>, Superblock);

/// Where an image's files are.
pub struct Place<'a> {
    /// All files.
    pub files: &'a dyn Files,
    /// Whose.
    pub image: &'a ImageId,
}

impl Place<'_> {
    fn folder(&self) -> &str {
        self.image.as_str()
    }

    /// The path of a file of this image.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.folder())
    }

    fn damaged(&self, what: impl std::fmt::Display) -> BufferError {
        BufferError::Corrupt {
            reason: format!("{}: {what}", self.files.location(self.folder())),
        }
    }

    /// Opens the store, or makes it.
    ///
    /// # Errors
    /// If somebody has it, if it is damaged or of another format, or what the system says.
    pub fn open(&self, entropy: &dyn Entropy) -> Result<Opened, BufferError> {
        self.files.make_folder(self.folder()).map_err(failed)?;
        let lock = self.files.lock(self.folder()).map_err(failed)?;
        let lock = lock.ok_or_else(|| BufferError::Locked {
            path: self.files.location(self.folder()),
        })?;
        let names = self.files.names(self.folder()).map_err(failed)?;
        self.check_format(&names)?;
        let logs = names.iter().map(String::as_str);
        let logs: Vec<&str> = logs.filter(|name| is_log(name)).collect();
        let has_superblock = names.iter().any(|name| name == SUPERBLOCK);
        let found = match has_superblock {
            true => self.read_superblock()?,
            false => None,
        };
        match found {
            Some((file, superblock)) => self.recover(lock, file, superblock, &logs),
            None if self.holds_blocks(&logs).map_err(failed)? => {
                Err(self.damaged("the superblock is missing, and there is data"))
            }
            None => self.create(lock, has_superblock, &logs, entropy),
        }
    }

    fn check_format(&self, names: &[String]) -> Result<(), BufferError> {
        let is_earlier = |name: &String| EARLIER_FORMAT.contains(&name.as_str());
        if !names.iter().any(is_earlier) {
            return Ok(());
        }
        Err(BufferError::Unsupported {
            reason: format!(
                "{} is of the format before this version's: start the version of mvps that wrote \
                 it once more, let it close the image (SIGTERM checkpoints everything), and remove \
                 the folder",
                self.files.location(self.folder())
            ),
        })
    }

    /// The newest state that is whole; `None` if none was ever written. A making that was interrupted
    /// may leave a part of the first one, which is in the slot of odd numbers.
    fn read_superblock(&self) -> Result<Option<ReadSuperblock>, BufferError> {
        let opened = self.files.open(&self.path(SUPERBLOCK), OpenMode::Existing);
        let file = opened.map_err(failed)?;
        let mut newest: Option<Superblock> = None;
        let mut is_written = false;
        for slot in 0..2 {
            let mut bytes = vec![0; usize::try_from(SLOT_BYTES).expect("a slot is short")];
            let read = file.read_at(slot * SLOT_BYTES, &mut bytes);
            let read = read.map_err(failed)?;
            is_written |= slot == 0 && bytes.iter().any(|byte| *byte != 0);
            let found = Superblock::decode(self.image, &bytes[..read]);
            let found = found.filter(|it| it.offset() == slot * SLOT_BYTES);
            if let Some(found) = found
                && newest
                    .as_ref()
                    .is_none_or(|it| it.sequence < found.sequence)
            {
                newest = Some(found);
            }
        }
        match newest {
            None if is_written => Err(self.damaged("the superblock")),
            newest => Ok(newest.map(|newest| (file, newest))),
        }
    }

    /// Whether there is more in any of the files than a file begins with.
    fn holds_blocks(&self, logs: &[&str]) -> io::Result<bool> {
        for log in logs {
            let file = self.files.open(&self.path(log), OpenMode::Existing)?;
            if file.length()? > HEADER_BYTES as u64 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A new store; what an interrupted making left is removed.
    fn create(
        &self,
        lock: Box<dyn FolderLock>,
        has_superblock: bool,
        logs: &[&str],
        entropy: &dyn Entropy,
    ) -> Result<Opened, BufferError> {
        let create = || {
            for log in logs {
                self.files.remove(&self.path(log))?;
            }
            let store = StoreId(entropy.u128());
            let number = Generation(1);
            let generation = self.make_generation(store, number)?;
            let mode = match has_superblock {
                true => OpenMode::Existing,
                false => OpenMode::New,
            };
            let superblock_file = self.files.open(&self.path(SUPERBLOCK), mode)?;
            let superblock = Superblock {
                sequence: 1,
                store,
                synced: 0,
                newest: number,
                generations: vec![Listed {
                    number,
                    first: Some(1),
                    last: None,
                }],
                metadata: None,
            };
            let bytes = superblock.encode(self.image)?;
            superblock_file.set_length(0)?;
            // All of it has its room on the disk from now on.
            let zeroes = vec![0; MARK_OFFSET as usize + MARK_BYTES];
            superblock_file.write_at(0, &[io::IoSlice::new(&zeroes)])?;
            superblock_file.write_at(superblock.offset(), &[io::IoSlice::new(&bytes)])?;
            superblock_file.sync()?;
            self.files.sync_folder(self.folder())?;
            Ok((superblock_file, superblock, generation))
        };
        let (superblock_file, superblock, generation) = create().map_err(failed)?;
        Ok(Opened {
            lock,
            superblock_file,
            superblock,
            generations: vec![(generation, HEADER_BYTES as u64)],
            ordinal: 0,
            last_lsn: Lsn(0),
        })
    }

    /// Makes the file of a new generation, with its name durable.
    ///
    /// # Errors
    /// What the system says.
    pub fn make_generation(
        &self,
        store: StoreId,
        number: Generation,
    ) -> io::Result<Arc<LogGeneration>> {
        let path = self.path(&log_name(number));
        let file = self.files.open(&path, OpenMode::New)?;
        let seed = Seed::new(self.image, store, number);
        let header = FileHeader {
            store,
            generation: number,
        };
        let make = || {
            file.write_at(0, &[io::IoSlice::new(&header.encode(seed))])?;
            file.sync()?;
            if is("a new log's name is not synced") {
                return Ok(());
            }
            self.files.sync_folder(self.folder())
        };
        if let Err(error) = make() {
            // Nothing lists it; what stays is removed by the next opening.
            let _ = self.files.remove(&path);
            return Err(error);
        }
        Ok(Arc::new(LogGeneration::new(number, seed, file)))
    }

    fn recover(
        &self,
        lock: Box<dyn FolderLock>,
        superblock_file: Arc<dyn File>,
        mut superblock: Superblock,
        logs: &[&str],
    ) -> Result<Opened, BufferError> {
        let mut mark = [0; MARK_BYTES];
        let read = superblock_file.read_at(MARK_OFFSET, &mut mark);
        let read = read.map_err(failed)?;
        let marked = decode_mark(self.image, superblock.store, &mark[..read]);
        let mut found = self.find(&superblock)?;
        found.proven_synced = found.proven_synced.max(marked.unwrap_or_default());
        let newest = found.blocks().map(|block| block.stamp.superblock).max();
        if newest > Some(superblock.sequence) {
            return Err(self.damaged("the superblock is older than the data"));
        }
        if found.proven_synced > found.last_ordinal() && !is("what was synced may be missing") {
            return Err(self.damaged(format_args!(
                "block {} is missing or damaged, and was synced",
                found.last_ordinal() + 1
            )));
        }
        // The bytes of a slot that may not be on the disk, though they are read.
        let bytes = superblock.encode(self.image).map_err(failed)?;
        let rewrite = || {
            superblock_file.write_at(superblock.offset(), &[io::IoSlice::new(&bytes)])?;
            superblock_file.sync()
        };
        if !is("a superblock that was read is on the disk") {
            rewrite().map_err(failed)?;
        }
        found.settle().map_err(failed)?;
        // The next opening need not write them once more.
        write_mark(
            &*superblock_file,
            self.image,
            superblock.store,
            found.last_ordinal(),
        );
        let listed = found.listed();
        if listed != superblock.generations {
            superblock.sequence += 1;
            superblock.generations = listed;
            superblock.synced = found.last_ordinal();
            let bytes = superblock.encode(self.image).map_err(failed)?;
            let write = || {
                superblock_file.write_at(superblock.offset(), &[io::IoSlice::new(&bytes)])?;
                superblock_file.sync()
            };
            write().map_err(failed)?;
        }
        let listed = superblock.generations.iter();
        let listed: BTreeSet<String> = listed.map(|it| log_name(it.number)).collect();
        for log in logs {
            if !listed.contains(*log) {
                self.files.remove(&self.path(log)).map_err(failed)?;
            }
        }
        // The names that were found may not be on the disk either.
        if !is("a name that was read is on the disk") {
            self.files.sync_folder(self.folder()).map_err(failed)?;
        }
        let ordinal = found.last_ordinal();
        let last_lsn = found.blocks().map(|block| block.stamp.last_lsn).max();
        let generations = found.generations.into_iter();
        let generations = generations.map(|it| {
            let end = it.end();
            for block in &it.blocks {
                it.generation.add(block);
            }
            (it.generation, end)
        });
        Ok(Opened {
            lock,
            superblock_file,
            superblock,
            generations: generations.collect(),
            ordinal,
            last_lsn: last_lsn.unwrap_or_default(),
        })
    }

    /// Finds the blocks of all generations, up to the first that is missing.
    fn find(&self, superblock: &Superblock) -> Result<Found, BufferError> {
        let mut found = Found {
            generations: Vec::new(),
            proven_synced: superblock.synced,
        };
        let mut next = 1;
        let mut is_cut = false;
        for listed in &superblock.generations {
            let path = self.path(&log_name(listed.number));
            let file = match self.files.open(&path, OpenMode::Existing) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(self.damaged(format_args!("{path} is missing")));
                }
                opened => opened.map_err(failed)?,
            };
            let seed = Seed::new(self.image, superblock.store, listed.number);
            let first = listed.first.unwrap_or(next);
            let scan = scan(&*file, seed, first).map_err(failed)?;
            if scan.header.is_none() {
                return Err(self.damaged(format_args!("the beginning of {path}")));
            }
            let stamps = scan.blocks.iter().map(|block| block.stamp.synced);
            let proven = stamps.max().unwrap_or_default().max(scan.proven_behind);
            if !is("a later block proves no sync") {
                found.proven_synced = found.proven_synced.max(proven);
            }
            if is_cut {
                continue;
            }
            next = first + scan.blocks.len() as u64;
            // What the generation had when it was sealed is not all there.
            is_cut = listed.last.is_some_and(|last| next <= last);
            let is_unused = listed.first.is_none() && scan.blocks.is_empty();
            if !is_unused {
                found.generations.push(FoundGeneration {
                    listed: Listed {
                        first: Some(first),
                        ..*listed
                    },
                    generation: Arc::new(LogGeneration::new(listed.number, seed, file)),
                    blocks: scan.blocks,
                });
            }
        }
        if found.generations.is_empty() {
            return Err(self.damaged("no generation is listed"));
        }
        Ok(found)
    }
}

/// What is in the files.
struct Found {
    generations: Vec<FoundGeneration>,
    /// Every block up to this ordinal was synced once.
    proven_synced: u64,
}

struct FoundGeneration {
    listed: Listed,
    generation: Arc<LogGeneration>,
    blocks: Vec<Block>,
}

impl FoundGeneration {
    fn end(&self) -> u64 {
        self.blocks.last().map_or(HEADER_BYTES as u64, Block::end)
    }
}

impl Found {
    fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.generations.iter().flat_map(|it| &it.blocks)
    }

    fn last_ordinal(&self) -> u64 {
        let last = self.generations.last().expect("there is always one");
        let first = last.listed.first.unwrap_or(1);
        first + last.blocks.len() as u64 - 1
    }

    /// The generations as the superblock is to list them: the last one is active.
    fn listed(&self) -> Vec<Listed> {
        let count = self.generations.len();
        let listed = self.generations.iter().enumerate();
        let mut listed: Vec<Listed> = listed
            .map(|(index, it)| Listed {
                last: it.listed.last.or_else(|| {
                    let next = self.generations.get(index + 1)?;
                    Some(next.listed.first? - 1)
                }),
                ..it.listed
            })
            .collect();
        listed[count - 1].last = None;
        listed
    }

    /// Ends the log before the first block that is not whole, writes what may not be on the disk
    /// once more, and syncs it.
    fn settle(&mut self) -> io::Result<()> {
        let mut kept = 0;
        for generation in &mut self.generations {
            kept += 1;
            let whole = rewrite(generation, self.proven_synced)?;
            let is_cut = whole < generation.blocks.len();
            generation.blocks.truncate(whole);
            let (end, file) = (generation.end(), &generation.generation.file);
            // The length that is read may not be on the disk either.
            if !is("a torn tail stays") {
                file.set_length(end)?;
            }
            file.sync()?;
            if is_cut {
                break;
            }
        }
        self.generations.truncate(kept);
        Ok(())
    }
}

/// Writes the blocks above `synced` again. Returns how many blocks, with those below, are whole.
fn rewrite(generation: &FoundGeneration, synced: u64) -> io::Result<usize> {
    let (file, seed) = (&generation.generation.file, generation.generation.seed);
    for (index, block) in generation.blocks.iter().enumerate() {
        if block.stamp.ordinal <= synced {
            continue;
        }
        let length = usize::try_from(block.end() - block.offset).expect("a block is in memory");
        let mut bytes = vec![0; length];
        let read = file.read_at(block.offset, &mut bytes)?;
        let content = usize::try_from(block.content_offset() - block.offset);
        let content = content.expect("a block is in memory");
        let content = bytes.get(content..content + block.content_bytes());
        let is_whole = read == length && content.is_some_and(|it| block.is_whole(seed, it));
        if !is_whole && !is("content is not looked at") {
            return Ok(index);
        }
        if !is("what was read is on the disk") {
            file.write_at(block.offset, &[io::IoSlice::new(&bytes)])?;
        }
    }
    Ok(generation.blocks.len())
}

/// An error of the system, while opening.
fn failed(error: io::Error) -> BufferError {
    let reason = error.to_string();
    match is_want_of_room(&error) {
        true => BufferError::Full { reason },
        false => BufferError::Io { reason },
    }
}
