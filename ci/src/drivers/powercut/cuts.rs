//! Power cuts at random instants under a load that flushes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::runtime::Runtime;

use super::disk::Machine;
use crate::model::history::{History, Instant, OperationId, Stamp, Survives, UNIT_BYTES};
use crate::model::load::{self, Ended, Shared};
use crate::model::target::{Target, find};
use crate::model::verdict::{self, Figures};
use crate::rig::daemon::{Daemon, Listen, Setup};
use crate::rig::numbers::Numbers;
use crate::rig::object_server::ObjectStore;
use crate::rig::token::Claims;

/// The units of the image: 64 MiB.
const UNITS: u32 = 64 * 1024;

/// The connections of the load.
const CONNECTIONS: u64 = 4;

/// Checkpoint intervals that rounds choose among: many, some, none.
const CHECKPOINTS_MS: &[&str] = &["40", "300", "3600000"];

/// How long the load may take to notice that its daemon is dead.
const END_LIMIT: Duration = Duration::from_secs(20);

/// What several rounds add up to.
#[derive(Debug, Default)]
struct Sum {
    figures: Figures,
    /// Rounds after which something acknowledged was gone, as a power cut may do and a kill may
    /// not.
    lossy: usize,
}

/// Cuts the power `cuts` times.
///
/// # Errors
/// The first round that cannot be explained.
pub fn run(
    cuts: usize,
    binary: &Path,
    machine: &mut Machine,
    place: &Path,
    seed: u64,
) -> Result<String> {
    let runtime = Runtime::new()?;
    let mut numbers = Numbers::new(seed);
    let mut setup = setup(binary, machine, place)?;
    let mut before: Option<History> = None;
    let mut sum = Sum::default();
    for round in 0..=cuts {
        setup.listen = Listen::free_port()?;
        let interval = CHECKPOINTS_MS[usize::try_from(numbers.below(3))?];
        setup.flags = vec!["--checkpoint-interval-ms".into(), interval.into()];
        let in_round = || format!("cut {round}, checkpoints every {interval} ms, seed {seed}");
        let daemon = setup.start().with_context(in_round)?;
        let target = target(&setup, "power");
        let found = runtime.block_on(find(&target)).with_context(in_round)?;
        let next_stamp = match before.take() {
            None => 1,
            Some(history) => {
                let judged = judge(&history, &found).with_context(in_round)?;
                sum.figures.add(judged);
                sum.lossy += usize::from(lost_something(&history, &found));
                history.next_stamp()
            }
        };
        if round == cuts {
            daemon.stop().context("the clean end after the last cut")?;
            break;
        }
        let base: Vec<Stamp> = found.into_iter().map(|(_, stamp)| stamp).collect();
        let history = History::new(base, next_stamp);
        let history = cut_under_load(&runtime, &target, daemon, machine, history, &mut numbers);
        before = Some(history.with_context(in_round)?);
        machine.power_on_after_cut().with_context(in_round)?;
    }
    let Sum { figures, lossy } = sum;
    Ok(format!(
        "{} cuts, {} operations, {} found, {} reads explained, acknowledged writes lost in {lossy}",
        figures.rounds, figures.operations, figures.included, figures.reads
    ))
}

/// A daemon whose buffer store is on the disk of `machine`.
///
/// # Errors
/// If no port is free.
pub fn setup(binary: &Path, machine: &Machine, place: &Path) -> Result<Setup> {
    // The object store is another machine's: its power is not cut.
    let store = ObjectStore::Local(place.join("objects"));
    Ok(Setup {
        buffer: machine.path().join("buffer"),
        ..Setup::new(binary, store, place)?
    })
}

/// The image `name` on the daemon of `setup`.
pub fn target(setup: &Setup, name: &str) -> Target {
    Target {
        setup: setup.clone(),
        claims: Claims::image(name, u64::from(UNITS) * UNIT_BYTES),
        image: 1,
        units: UNITS,
    }
}

/// Judges what a power cut left: everything flushed or checkpointed, one prefix.
///
/// # Errors
/// The first contradiction.
pub fn judge(history: &History, found: &[(u32, Stamp)]) -> Result<Figures> {
    let mut must: Vec<OperationId> = history.survivors(Survives::Flushed);
    must.extend(history.survivors(Survives::Checkpointed));
    must.sort_unstable();
    must.dedup();
    verdict::judge(history, found, &must, Instant::MAX)
}

/// Whether something that was acknowledged is gone.
pub fn lost_something(history: &History, found: &[(u32, Stamp)]) -> bool {
    let must = history.survivors(Survives::Acknowledged);
    verdict::judge(history, found, &must, Instant::MAX).is_err()
}

/// Loads the daemon, cuts the power at a random instant, and returns what the clients know.
fn cut_under_load(
    runtime: &Runtime,
    target: &Target,
    mut daemon: Daemon,
    machine: &Machine,
    history: History,
    numbers: &mut Numbers,
) -> Result<History> {
    let shared = Shared::new(history);
    let load = load::run(target.clone(), shared.clone(), CONNECTIONS, numbers.next());
    let load = runtime.spawn(load);
    std::thread::sleep(Duration::from_millis(100 + numbers.below(900)));
    if numbers.below(2) == 0 {
        let asked = shared.note().tick();
        daemon.checkpoint(&target.claims.image)?;
        shared.note().checkpointed(asked);
        std::thread::sleep(Duration::from_millis(numbers.below(300)));
    }
    daemon.must_run()?;
    // From here on nothing reaches a client or the object store: the copy may take its time.
    daemon.freeze()?;
    machine.cut()?;
    daemon.kill()?;
    let ended = runtime.block_on(async { tokio::time::timeout(END_LIMIT, load).await });
    let ended = ended.context("the load goes on without a daemon")??;
    for end in ended {
        ensure!(end == Ended::Lost, "a connection ended with {end:?}");
    }
    let history = shared.note();
    ensure!(history.operations().len() > 10, "hardly any load");
    Ok(history.clone())
}
