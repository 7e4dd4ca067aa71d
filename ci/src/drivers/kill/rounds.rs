//! Modes a, b and d: kill, find the state again, judge it, go on from it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::runtime::Runtime;

use crate::model::history::{History, Instant, Stamp, Survives, UNIT_BYTES, ZEROES};
use crate::model::load::{self, Ended, Shared};
use crate::model::target::{Target, find, must_refuse};
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

/// What is lost with the process, and what must then be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The mode's letter.
    pub name: &'static str,
    /// Whether the buffer store is deleted after each kill.
    pub loses_buffer: bool,
    /// What must survive.
    pub survives: Survives,
    /// Whether clients ask for `durability = object-store`.
    pub durable_in_object_store: bool,
}

/// Runs `rounds` rounds.
///
/// # Errors
/// The first round that cannot be explained; its directory is kept.
pub fn run(
    rules: Rules,
    rounds: usize,
    binary: &Path,
    store: ObjectStore,
    directory: &Path,
    seed: u64,
) -> Result<Figures> {
    let runtime = Runtime::new()?;
    let mut numbers = Numbers::new(seed);
    let mut setup = Setup::new(binary, store, directory)?;
    let name = format!("kill-{}", rules.name);
    let claims = Claims {
        durable_in_object_store: rules.durable_in_object_store,
        ..Claims::image(&name, u64::from(UNITS) * UNIT_BYTES)
    };
    let mut figures = Figures::default();
    let mut before: Option<History> = None;
    for round in 0..=rounds {
        setup.listen = Listen::free_port()?;
        let interval = CHECKPOINTS_MS[usize::try_from(numbers.below(3))?];
        setup.flags = vec!["--checkpoint-interval-ms".into(), interval.into()];
        let daemon = setup.start()?;
        let target = Target {
            setup: setup.clone(),
            claims: claims.clone(),
            image: 1,
            units: UNITS,
        };
        let in_round = || format!("round {round}, checkpoints every {interval} ms, seed {seed}");
        if rules.loses_buffer && before.is_some() {
            let refused = runtime.block_on(must_refuse(&target));
            refused
                .and_then(|()| setup.take_over(&name))
                .with_context(in_round)?;
        }
        let found = runtime.block_on(find(&target)).with_context(in_round)?;
        if let Some(history) = before.take() {
            let must = history.survivors(rules.survives);
            let judged = verdict::judge(&history, &found, &must, Instant::MAX);
            figures.add(judged.with_context(in_round)?);
            before = Some(history);
        }
        if round == rounds {
            daemon
                .stop()
                .context("the clean end after the last round")?;
            break;
        }
        let next_stamp = before.take().map_or(1, |history| history.next_stamp());
        let base: Vec<Stamp> = found.into_iter().map(|(_, stamp)| stamp).collect();
        ensure!(
            round > 0 || base.iter().all(|stamp| *stamp == ZEROES),
            "a new image is empty"
        );
        let history = History::new(base, next_stamp);
        let history = kill_under_load(&runtime, &target, daemon, history, &mut numbers);
        before = Some(history.with_context(in_round)?);
        if rules.loses_buffer {
            setup.lose_buffer()?;
        }
    }
    Ok(figures)
}

/// Loads the daemon, kills it at a random instant, and returns what the clients know.
fn kill_under_load(
    runtime: &Runtime,
    target: &Target,
    mut daemon: Daemon,
    history: History,
    numbers: &mut Numbers,
) -> Result<History> {
    let shared = Shared::new(history);
    let seed = numbers.next();
    let load = load::run(target.clone(), shared.clone(), CONNECTIONS, seed);
    let load = runtime.spawn(load);
    std::thread::sleep(Duration::from_millis(100 + numbers.below(500)));
    if numbers.below(2) == 0 {
        let asked = shared.note().tick();
        daemon.checkpoint(&target.claims.image)?;
        shared.note().checkpointed(asked);
        std::thread::sleep(Duration::from_millis(numbers.below(300)));
    }
    daemon.must_run()?;
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
