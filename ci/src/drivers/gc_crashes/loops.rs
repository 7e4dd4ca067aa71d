//! Collectors in a tight loop, each pass killed at a random instant or left to end.
//!
//! Invariants: a pass that is not killed succeeds, and none outlives its limit.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::rig::command;
use crate::rig::daemon::Setup;
use crate::rig::numbers::Numbers;

/// How many at once.
const COLLECTORS: u64 = 2;

/// A pass that is to be killed lives for less than this: some are killed while they start, most in
/// the middle, some have ended. An undisturbed one takes some tens of milliseconds.
const KILLED_BEFORE_MS: u64 = 60;

/// How long a pass may take.
const PASS_LIMIT: Duration = Duration::from_secs(120);

/// What became of the passes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Passes that ended by themselves.
    pub finished: u64,
    /// Passes that were killed.
    pub killed: u64,
    /// Objects that those which ended deleted.
    pub deleted: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            finished,
            killed,
            deleted,
        } = self;
        write!(
            formatter,
            "{finished} passes of collectors ended, {killed} were killed; {deleted} objects \
             deleted by those that ended"
        )
    }
}

/// The running loops.
pub struct Loops {
    enough: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Tally>>>,
}

impl Loops {
    /// Starts them, with their output below `place`.
    pub fn start(collector: &Setup, place: &Path, seed: u64) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let threads = (0..COLLECTORS).map(|number| {
            let one = One {
                collector: collector.clone(),
                output: place.join(format!("collector-{number}.json")),
                log: place.join(format!("collector-{number}.log")),
                numbers: Numbers::new(seed.rotate_left(8) ^ number),
            };
            let enough = Arc::clone(&enough);
            std::thread::spawn(move || one.run(&enough))
        });
        let threads = threads.collect();
        Self { enough, threads }
    }

    /// Fails if one has ended.
    ///
    /// # Errors
    /// Says so; why, [`Loops::stop`] says.
    pub fn must_run(&self) -> Result<()> {
        ensure!(
            !self.threads.iter().any(JoinHandle::is_finished),
            "a loop of collectors has ended"
        );
        Ok(())
    }

    /// Ends them after the passes that they are in.
    ///
    /// # Errors
    /// If a pass failed.
    pub fn stop(self) -> Result<Tally> {
        self.enough.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        for thread in self.threads {
            let tally = thread.join().expect("a loop returns")?;
            sum.finished += tally.finished;
            sum.killed += tally.killed;
            sum.deleted += tally.deleted;
        }
        Ok(sum)
    }
}

struct One {
    collector: Setup,
    output: PathBuf,
    log: PathBuf,
    numbers: Numbers,
}

impl One {
    fn run(mut self, enough: &AtomicBool) -> Result<Tally> {
        let mut tally = Tally::default();
        while !enough.load(Ordering::Relaxed) {
            match self.pass()? {
                Some(deleted) => {
                    tally.finished += 1;
                    tally.deleted += deleted;
                }
                None => tally.killed += 1,
            }
        }
        Ok(tally)
    }

    /// One pass; how many objects it deleted, or nothing if it was killed.
    fn pass(&mut self) -> Result<Option<u64>> {
        let mut command = self.collector.command(&["--threshold-inactive-days", "0"]);
        command.args(["--output", "json"]);
        command.stdin(Stdio::null());
        command.stdout(File::create(&self.output)?);
        command.stderr(File::create(&self.log)?);
        let is_to_be_killed = self.numbers.below(2) == 0;
        let limit = match is_to_be_killed {
            true => Duration::from_millis(self.numbers.below(KILLED_BEFORE_MS)),
            false => PASS_LIMIT,
        };
        let mut child = command.spawn().context("starting mvps-gc")?;
        match command::wait_within(&mut child, limit)? {
            Some(status) if status.success() => Ok(Some(self.deleted()?)),
            Some(status) => bail!("mvps-gc: {status}\n{}", self.said()?),
            None => {
                child.kill()?;
                child.wait()?;
                ensure!(is_to_be_killed, "mvps-gc hangs\n{}", self.said()?);
                Ok(None)
            }
        }
    }

    fn deleted(&self) -> Result<u64> {
        let output = fs::read_to_string(&self.output)?;
        let report: Value = serde_json::from_str(&output).context("not JSON")?;
        let images = report["images"].as_array().context("images")?;
        let deleted = images.iter().map(|image| image["objects_deleted"].as_u64());
        Ok(deleted.flatten().sum())
    }

    fn said(&self) -> Result<String> {
        let output = fs::read_to_string(&self.output)?;
        let log = fs::read_to_string(&self.log)?;
        Ok(command::tail(&format!("{output}{log}")))
    }
}
