//! The server's side: rounds of load, each with its end, and the snapshots that are kept over
//! several rounds.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::ends::End;
use crate::model::history::{self, History, Stamp, Survives, UNIT_BYTES};
use crate::model::load::{self, Ended, Shared};
use crate::model::target::{Target, find, must_refuse};
use crate::model::verdict::{self, Figures};
use crate::rig::daemon::{Daemon, Listen, Setup};
use crate::rig::numbers::Numbers;
use crate::rig::token::Claims;

/// The image. Its name and the prefix are short: see `ObjectServer::store`.
const IMAGE: &str = "g";

/// Its units: 32 MiB.
const UNITS: u32 = 32 * 1024;

/// Its number in its units; clones have it too.
const NUMBER: u64 = 1;

/// The connections of the load.
const CONNECTIONS: u64 = 4;

/// Checkpoint intervals that servers choose among: many, some, few.
const CHECKPOINTS_MS: &[&str] = &["40", "300", "5000"];

/// Snapshots that are kept: each keeps what the image lets go of.
const SNAPSHOTS: usize = 3;

/// How long a load may take to begin, or to notice its server's end.
const LOAD_LIMIT: Duration = Duration::from_secs(30);

/// Answers after which a load counts as under way.
const ANSWERED_LEAST: usize = 20;

/// A load that was fenced goes on stamping for a while; the next one's stamps begin this far above.
const STAMP_GAP: Stamp = 1 << 32;

/// What every unit holds.
type Content = Vec<(u32, Stamp)>;

/// A snapshot and what must be in it.
struct Snapshot {
    name: String,
    content: Content,
}

/// A server that was taken from, and its load.
struct Fenced {
    daemon: Daemon,
    load: JoinHandle<Vec<Ended>>,
    place: PathBuf,
}

/// What was done, for the report.
#[derive(Debug, Default)]
pub struct Done {
    judged: Figures,
    ends: BTreeMap<End, u32>,
    compared: u32,
    rolled_back: u32,
    cleaned_bytes: u64,
}

impl fmt::Display for Done {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures {
            rounds,
            operations,
            reads,
            ..
        } = self.judged;
        write!(
            formatter,
            "{rounds} rounds {:?}, {operations} operations, {reads} reads explained, {} snapshots \
             compared, {} rollbacks, {} MiB cleaned",
            self.ends,
            self.compared,
            self.rolled_back,
            self.cleaned_bytes >> 20
        )
    }
}

/// An image, the server that has it, and what is known of it.
pub struct LoadedImage {
    runtime: Runtime,
    numbers: Numbers,
    setup: Setup,
    place: PathBuf,
    servers: u32,
    snapshots: VecDeque<Snapshot>,
    names: u32,
    next_stamp: Stamp,
    fenced: Option<Fenced>,
    done: Done,
}

impl LoadedImage {
    /// Begins with the server of `setup`; others have their places below `place`.
    ///
    /// # Errors
    /// If there is no runtime.
    pub fn new(setup: Setup, place: &Path, seed: u64) -> Result<Self> {
        Ok(Self {
            runtime: Runtime::new()?,
            numbers: Numbers::new(seed),
            setup,
            place: place.to_owned(),
            servers: 0,
            snapshots: VecDeque::new(),
            names: 0,
            next_stamp: 1,
            fenced: None,
            done: Done::default(),
        })
    }

    /// Rounds until `duration` is over; `watch` is asked before each.
    ///
    /// # Errors
    /// The first round that cannot be explained.
    pub fn run(mut self, duration: Duration, watch: impl Fn() -> Result<()>) -> Result<Done> {
        let deadline = Instant::now() + duration;
        let mut daemon = self.start()?;
        let mut found = self.find()?;
        loop {
            let round = self.done.judged.rounds;
            let is_last = Instant::now() >= deadline;
            let end = match is_last {
                true => End::Moved,
                false => End::choose(&mut self.numbers),
            };
            let ended = watch().and_then(|()| self.round(daemon, found, end));
            (daemon, found) = ended.with_context(|| format!("round {round}, {end:?}"))?;
            if is_last {
                break;
            }
        }
        while let Some(snapshot) = self.snapshots.pop_front() {
            self.compare(&snapshot)?;
        }
        self.retire()?;
        daemon.stop()?;
        Ok(self.done)
    }

    fn target(&self) -> Target {
        self.target_of(IMAGE)
    }

    fn target_of(&self, image: &str) -> Target {
        Target {
            setup: self.setup.clone(),
            claims: Claims::image(image, u64::from(UNITS) * UNIT_BYTES),
            image: NUMBER,
            units: UNITS,
        }
    }

    fn find(&self) -> Result<Content> {
        self.runtime.block_on(find(&self.target()))
    }

    /// Starts the server of the present setup.
    fn start(&mut self) -> Result<Daemon> {
        let chosen = self.numbers.below(CHECKPOINTS_MS.len() as u64);
        let interval = CHECKPOINTS_MS[usize::try_from(chosen)?];
        self.setup.listen = Listen::free_port()?;
        self.setup.flags = vec!["--checkpoint-interval-ms".into(), interval.into()];
        self.setup.start()
    }

    /// Starts another server, with an empty buffer store.
    fn start_elsewhere(&mut self) -> Result<Daemon> {
        self.servers += 1;
        let place = self.place.join(format!("server-{}", self.servers));
        self.setup = Setup::new(&self.setup.binary, self.setup.store.clone(), &place)?;
        self.start()
    }

    /// Load, an end, and the judgement of what is there then.
    fn round(&mut self, daemon: Daemon, found: Content, end: End) -> Result<(Daemon, Content)> {
        let found = self.look_back(found)?;
        // Without its buffer store the image goes back to the last checkpoint: to this one, or to
        // a later one, but never to before what this round's history begins with.
        daemon.checkpoint(IMAGE)?;
        let base = found.into_iter().map(|(_, stamp)| stamp).collect();
        let shared = Shared::new(History::new(base, self.next_stamp));
        let seed = self.numbers.next();
        let load = load::run(self.target(), shared.clone(), CONNECTIONS, seed);
        let load = self.runtime.spawn(load);
        under_way(&shared, &load)?;
        std::thread::sleep(Duration::from_millis(self.numbers.below(1500)));
        if self.numbers.below(2) == 0 {
            let asked = shared.note().tick();
            daemon.checkpoint(IMAGE)?;
            shared.note().checkpointed(asked);
            std::thread::sleep(Duration::from_millis(self.numbers.below(300)));
        }
        self.done.cleaned_bytes += cleaned_bytes(&daemon)?;
        self.retire()?;
        let (daemon, until) = self.end(end, daemon, load, &shared)?;
        let found = self.find()?;
        let history = shared.note().clone();
        let must = history.survivors(end.survives());
        let judged = verdict::judge(&history, &found, &must, until)?;
        self.done.judged.add(judged);
        *self.done.ends.entry(end).or_default() += 1;
        self.next_stamp = history.next_stamp() + STAMP_GAP;
        Ok((daemon, found))
    }

    /// Ends the round; returns the server that is then active, and the end of what it may know.
    fn end(
        &mut self,
        end: End,
        mut daemon: Daemon,
        load: JoinHandle<Vec<Ended>>,
        shared: &Shared,
    ) -> Result<(Daemon, history::Instant)> {
        daemon.must_run()?;
        let place = self.setup.log.parent().context("a place")?.to_owned();
        match end {
            End::Restarted => {
                daemon.kill()?;
                self.must_end(load, &[Ended::Lost])?;
                Ok((self.start()?, history::Instant::MAX))
            }
            End::BufferLost => {
                daemon.kill()?;
                self.must_end(load, &[Ended::Lost])?;
                self.setup.lose_buffer()?;
                let daemon = self.start()?;
                self.take_over()?;
                Ok((daemon, history::Instant::MAX))
            }
            End::TakenOver => {
                let second = self.start_elsewhere()?;
                self.take_over()?;
                let until = shared.note().tick();
                self.fenced = Some(Fenced {
                    daemon,
                    load,
                    place,
                });
                Ok((second, until))
            }
            End::Moved => {
                daemon.stop()?;
                // Requests that were under way are answered with ESHUTDOWN or not at all.
                self.must_end(load, &[Ended::Lost, Ended::Fenced])?;
                let second = self.start_elsewhere()?;
                fs::remove_dir_all(place)?;
                Ok((second, history::Instant::MAX))
            }
        }
    }

    fn take_over(&self) -> Result<()> {
        self.runtime.block_on(must_refuse(&self.target()))?;
        self.setup.take_over(IMAGE)
    }

    fn must_end(&self, load: JoinHandle<Vec<Ended>>, allowed: &[Ended]) -> Result<()> {
        let ended = async { tokio::time::timeout(LOAD_LIMIT, load).await };
        let ended = self.runtime.block_on(ended);
        for end in ended.context("the load goes on without a server")?? {
            ensure!(allowed.contains(&end), "a connection ended with {end:?}");
        }
        Ok(())
    }

    /// A server that was taken from a round ago ends, if it does not know yet that it is fenced.
    fn retire(&mut self) -> Result<()> {
        let Some(fenced) = self.fenced.take() else {
            return Ok(());
        };
        if fenced.load.is_finished() {
            self.must_end(fenced.load, &[Ended::Fenced])?;
            fenced.daemon.kill()?;
        } else {
            fenced.daemon.kill()?;
            self.must_end(fenced.load, &[Ended::Fenced, Ended::Lost])?;
        }
        fs::remove_dir_all(fenced.place)?;
        Ok(())
    }

    /// Makes a snapshot of `found`, goes back to an earlier one, or compares one; what is then in
    /// the image.
    fn look_back(&mut self, found: Content) -> Result<Content> {
        let chosen = self.numbers.below(6);
        if self.snapshots.len() > SNAPSHOTS || (chosen == 0 && !self.snapshots.is_empty()) {
            let oldest = self.snapshots.pop_front().context("a snapshot")?;
            self.compare(&oldest)?;
        }
        match chosen {
            1..=3 => {
                self.names += 1;
                let name = format!("{IMAGE}@s{}", self.names);
                self.setup.operate(&["snapshot", "create", &name])?;
                let content = found.clone();
                self.snapshots.push_back(Snapshot { name, content });
                Ok(found)
            }
            4 if !self.snapshots.is_empty() => {
                let chosen = self.numbers.below(self.snapshots.len() as u64);
                let snapshot = &self.snapshots[usize::try_from(chosen)?];
                let name = snapshot.name.clone();
                self.setup.operate(&["image", "rollback", &name])?;
                let found = self.find().with_context(|| format!("back at {name}"))?;
                ensure!(found == snapshot.content, "{name} is not what it was");
                self.done.rolled_back += 1;
                Ok(found)
            }
            _ => Ok(found),
        }
    }

    /// Clones a snapshot, compares the clone with what was there, and deletes both.
    fn compare(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.names += 1;
        let clone = format!("c{}", self.names);
        self.setup
            .operate(&["image", "clone", &snapshot.name, &clone])?;
        // The clone pins it: what it needs stays, only the name goes.
        self.setup
            .operate(&["snapshot", "delete", &snapshot.name, "--force"])?;
        let found = self.runtime.block_on(find(&self.target_of(&clone)));
        let found = found.with_context(|| format!("{clone}, a clone of {}", snapshot.name))?;
        ensure!(
            found == snapshot.content,
            "{clone}, a clone of {}, is not what the snapshot was",
            snapshot.name
        );
        self.setup
            .operate(&["image", "delete", &clone, "--force"])?;
        self.done.compared += 1;
        Ok(())
    }
}

fn under_way(shared: &Shared, load: &JoinHandle<Vec<Ended>>) -> Result<()> {
    let deadline = Instant::now() + LOAD_LIMIT;
    let answered = || shared.note().survivors(Survives::Acknowledged).len();
    while answered() < ANSWERED_LEAST {
        ensure!(!load.is_finished(), "the load has ended by itself");
        ensure!(Instant::now() < deadline, "the load does not get going");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// What cleaning copied since the server opened the image.
fn cleaned_bytes(daemon: &Daemon) -> Result<u64> {
    let status = daemon.status()?;
    let images = status["images"].as_array().context("images")?;
    let image = images.iter().find(|image| image["image"] == IMAGE);
    let image = image.with_context(|| format!("{IMAGE} in {status}"))?;
    let copied = image["space"]["cleaned_bytes"].as_u64();
    copied.context("cleaned bytes in the status")
}
