//! Blocks that never reached the disk, by force. Writeback is free in its order, so after a power
//! cut a block in the middle of what was not synced may be missing while later ones are there: the
//! daemon has to cut there and go on. The same hole in what *was* synced is damage, and must be
//! refused.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use mvps_core::client::{Client, ClientError};
use tokio::runtime::Runtime;

use super::cuts::{judge, lost_something, setup, target};
use super::disk::Machine;
use crate::model::content::encode;
use crate::model::history::{Effect, History, Stamp, UNIT_BYTES};
use crate::model::target::{Target, find};
use crate::rig::client::attach;
use crate::rig::daemon::{Daemon, Listen};
use crate::rig::numbers::Numbers;

/// The unit in which a disk writes.
const BLOCK_BYTES: u64 = 4096;

/// Writes that are flushed before the tail begins.
const FLUSHED_WRITES: u64 = 40;

/// Writes of the tail.
const TAIL_WRITES: u64 = 120;

/// What a log begins with before it has blocks.
const LOG_HEADER_BYTES: u64 = 64;

/// Units of the largest write: 64 KiB, well above a block.
const WRITE_UNITS_MAX: u64 = 64;

/// More than the largest write takes in the log.
const DAMAGED_BLOCKS: u64 = 18;

/// Cuts the power `rounds` times, and tears the tail of the journal each time.
///
/// # Errors
/// The first round that cannot be explained, or damage that is not noticed.
pub fn run(
    rounds: usize,
    binary: &Path,
    machine: &mut Machine,
    place: &Path,
    seed: u64,
) -> Result<String> {
    let runtime = Runtime::new()?;
    let mut numbers = Numbers::new(seed);
    let mut setup = setup(binary, machine, place)?;
    // Nothing is synced but by a client's flush.
    setup.flags = vec!["--checkpoint-interval-ms".into(), "3600000".into()];
    let (mut operations, mut next_stamp) = (0, 1);
    for round in 0..rounds {
        let in_round = || format!("torn tail {round}, seed {seed}");
        setup.listen = Listen::free_port()?;
        let target = target(&setup, "tail");
        let daemon = setup.start().with_context(in_round)?;
        let round = Round {
            runtime: &runtime,
            target: &target,
            machine,
        };
        let history = round
            .run(daemon, next_stamp, &mut numbers)
            .with_context(in_round)?;
        operations += history.operations().len();
        next_stamp = history.next_stamp();
    }
    Ok(format!(
        "{rounds} tails cut, {operations} operations, {rounds} damaged middles refused"
    ))
}

struct Round<'a> {
    runtime: &'a Runtime,
    target: &'a Target,
    machine: &'a mut Machine,
}

impl Round<'_> {
    fn run(self, daemon: Daemon, next_stamp: Stamp, numbers: &mut Numbers) -> Result<History> {
        let (history, synced, journal) = self.load(&daemon, next_stamp, numbers)?;
        daemon.freeze()?;
        // All of it is on the disk, unsynced as far as the daemon knows.
        self.machine.write_back()?;
        self.machine.cut()?;
        daemon.kill()?;
        self.machine.power_on_with_copy_of_cut()?;
        // So many that the beginning of a record is among them: damage inside of one is noticed by
        // whoever reads it, and not at the opening.
        zero_blocks(&journal, synced.clone(), DAMAGED_BLOCKS, numbers)?;
        self.must_refuse().context("synced data is damaged")?;
        self.machine.power_on_after_cut()?;
        let end = data_end(&journal)?;
        let hole = zero_blocks(&journal, synced.end..end, 1, numbers)?;
        let daemon = self.target.setup.start()?;
        let torn = || {
            format!(
                "a hole at {hole} of {}, synced to {}",
                journal.display(),
                synced.end
            )
        };
        let found = self
            .runtime
            .block_on(find(self.target))
            .with_context(torn)?;
        judge(&history, &found).with_context(torn)?;
        ensure!(
            lost_something(&history, &found),
            "a hole at {hole} lost nothing: it was not in the tail"
        );
        daemon.stop()?;
        Ok(history)
    }

    /// Writes and flushes, then writes on. Returns the history, where what was flushed lies, and in
    /// which journal.
    fn load(
        &self,
        daemon: &Daemon,
        next_stamp: Stamp,
        numbers: &mut Numbers,
    ) -> Result<(History, Range<u64>, PathBuf)> {
        let found = self.runtime.block_on(find(self.target))?;
        let base = found.into_iter().map(|(_, stamp)| stamp).collect();
        let mut history = History::new(base, next_stamp);
        let client = self
            .runtime
            .block_on(attach(&self.target.setup, &self.target.claims))?;
        // The first write opens what an idle image had closed.
        self.write(&client, &mut history, numbers)?;
        let journal = active_journal(&daemon.setup().buffer)?;
        let begin = data_end(&journal)?;
        for _ in 0..FLUSHED_WRITES {
            self.write(&client, &mut history, numbers)?;
        }
        let issued = history.tick();
        self.runtime.block_on(client.flush())?;
        history.flushed(issued);
        let synced = begin..data_end(&journal)?;
        for _ in 0..TAIL_WRITES {
            self.write(&client, &mut history, numbers)?;
        }
        ensure!(
            active_journal(&daemon.setup().buffer)? == journal,
            "the journal was changed in the middle of a round"
        );
        Ok((history, synced, journal))
    }

    fn write(&self, client: &Client, history: &mut History, numbers: &mut Numbers) -> Result<()> {
        let length = 1 + numbers.below(WRITE_UNITS_MAX);
        let first = numbers.below(u64::from(self.target.units) - length);
        let units = u32::try_from(first)?..u32::try_from(first + length)?;
        let (id, stamp) = history.issue_range(units.clone(), Effect::Written);
        let data = encode(self.target.image, units, stamp);
        let written = client.write(first * UNIT_BYTES, data.into(), false);
        self.runtime.block_on(written)?;
        history.acknowledge(id, false);
        Ok(())
    }

    fn must_refuse(&self) -> Result<()> {
        let daemon = self.target.setup.start()?;
        let opened = self
            .runtime
            .block_on(attach(&self.target.setup, &self.target.claims));
        match opened {
            Err(ClientError::Refused(_)) => {
                let log = fs::read_to_string(&self.target.setup.log)?;
                ensure!(log.contains("damaged"), "the log names no damage");
            }
            Err(other) => bail!("not refused, but: {other}"),
            Ok(_) => bail!("the image opened, without what was synced"),
        }
        daemon.kill()
    }
}

/// The log that is written to: that of the highest generation with blocks.
fn active_journal(buffer: &Path) -> Result<PathBuf> {
    let mut logs = Vec::new();
    for image in fs::read_dir(buffer.join("images"))? {
        let image = image?.path();
        for name in names(&image)? {
            let log = image.join(&name);
            if name.ends_with(".log") && fs::metadata(&log)?.len() > LOG_HEADER_BYTES {
                logs.push((name, log));
            }
        }
    }
    logs.sort();
    let (_, active) = logs.pop().context("no log below the buffer store")?;
    Ok(active)
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Where the last byte that is not zero ends.
fn data_end(journal: &Path) -> Result<u64> {
    let mut bytes = Vec::new();
    File::open(journal)?.read_to_end(&mut bytes)?;
    let last = bytes.iter().rposition(|byte| *byte != 0);
    Ok(last.map_or(0, |last| last as u64 + 1))
}

/// Zeroes `count` blocks that lie wholly within `range`; returns where they begin.
fn zero_blocks(
    journal: &Path,
    range: Range<u64>,
    count: u64,
    numbers: &mut Numbers,
) -> Result<u64> {
    let first = range.start.next_multiple_of(BLOCK_BYTES);
    let blocks = (range.end.saturating_sub(first)) / BLOCK_BYTES;
    ensure!(blocks > 2 * count, "too little was written: {range:?}");
    let offset = first + numbers.below(blocks + 1 - count) * BLOCK_BYTES;
    let mut file = OpenOptions::new().write(true).open(journal)?;
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(&vec![0; usize::try_from(count * BLOCK_BYTES)?])?;
    file.sync_all()?;
    Ok(offset)
}
