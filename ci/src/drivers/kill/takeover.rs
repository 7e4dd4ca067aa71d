//! Mode c: a second daemon takes images over while the first is alive and under load.
//!
//! One round is one image; the images of a batch share two daemons, because the first may take
//! its bound (10 s of use) to learn that it is fenced. Checked for each image: the second daemon
//! is refused until the takeover; what it then serves is a prefix of what the first did before the
//! takeover was complete; every client of the first ends with ESHUTDOWN within the bound; nothing
//! that the first wrote afterwards shows up; and the first, started again on its own buffer store,
//! is refused.

use std::path::Path;
use std::time::{Duration, Instant as WallInstant};

use anyhow::{Context, Result, bail, ensure};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::model::history::{History, Instant, Stamp, Survives, UNIT_BYTES, ZEROES};
use crate::model::load::{self, Ended, Shared};
use crate::model::target::{Target, must_refuse, read_image};
use crate::model::verdict::{self, Figures};
use crate::rig::client::attach;
use crate::rig::daemon::{Listen, Setup};
use crate::rig::numbers::Numbers;
use crate::rig::object_server::ObjectStore;
use crate::rig::token::Claims;

/// The units of an image: 16 MiB.
const UNITS: u32 = 16 * 1024;

/// Images of a batch.
const BATCH: usize = 10;

/// Connections to each image.
const CONNECTIONS: u64 = 2;

/// A fenced server learns of it within 10 s of use (PROTOCOL §3.8); the rest is for the machine.
const FENCED_LIMIT: Duration = Duration::from_secs(25);

/// Answers after which a load counts as under way.
const ANSWERED_LEAST: usize = 20;

/// Stamps of the second daemon's load begin this far above the first's.
const STAMP_GAP: Stamp = 1 << 32;

/// An image under the first daemon's load.
struct Round {
    target: Target,
    shared: Shared,
    load: JoinHandle<Vec<Ended>>,
}

/// An image that the second daemon serves.
struct Taken {
    round: Round,
    second: Target,
    at: WallInstant,
    history: Shared,
}

/// Runs `rounds` rounds; returns the figures and the longest time until a fenced server knew.
///
/// # Errors
/// The first round that cannot be explained.
pub fn run(
    rounds: usize,
    binary: &Path,
    store: &ObjectStore,
    directory: &Path,
    seed: u64,
) -> Result<(Figures, Duration)> {
    let runtime = Runtime::new()?;
    let mut numbers = Numbers::new(seed);
    let (mut figures, mut longest) = (Figures::default(), Duration::ZERO);
    let mut done = 0;
    while done < rounds {
        let count = BATCH.min(rounds - done);
        let place = directory.join(format!("batch-{done}"));
        let names: Vec<String> = (done..done + count)
            .map(|n| format!("kill-c-{n}"))
            .collect();
        let batch = Batch {
            runtime: &runtime,
            binary,
            store,
            place: &place,
        };
        let (judged, slowest) = batch
            .run(&names, &mut numbers)
            .with_context(|| format!("batch at round {done}, seed {seed}"))?;
        figures.add(judged);
        longest = longest.max(slowest);
        done += count;
    }
    Ok((figures, longest))
}

struct Batch<'a> {
    runtime: &'a Runtime,
    binary: &'a Path,
    store: &'a ObjectStore,
    place: &'a Path,
}

impl Batch<'_> {
    fn run(&self, names: &[String], numbers: &mut Numbers) -> Result<(Figures, Duration)> {
        let interval = ["50", "400", "3600000"][usize::try_from(numbers.below(3))?];
        let flags = vec!["--checkpoint-interval-ms".to_owned(), interval.to_owned()];
        let setup = |name: &str| -> Result<Setup> {
            let setup = Setup::new(self.binary, self.store.clone(), &self.place.join(name))?;
            let flags = flags.clone();
            Ok(Setup { flags, ..setup })
        };
        let (mut first, second) = (setup("first")?, setup("second")?);
        let first_daemon = first.start()?;
        let mut second_daemon = second.start()?;
        let rounds: Vec<Round> = names
            .iter()
            .map(|name| self.load(&first, name, numbers))
            .collect();
        under_way(&rounds)?;
        std::thread::sleep(Duration::from_millis(numbers.below(400)));
        let (mut figures, mut longest) = (Figures::default(), Duration::ZERO);
        let mut taken = Vec::new();
        for round in rounds {
            let image = round.target.claims.image.clone();
            if numbers.below(2) == 0 {
                let asked = round.shared.note().tick();
                first_daemon.checkpoint(&image)?;
                round.shared.note().checkpointed(asked);
            }
            std::thread::sleep(Duration::from_millis(numbers.below(100)));
            let (judged, image) = self.take(round, &second, numbers).with_context(|| image)?;
            figures.add(judged);
            taken.push(image);
        }
        for image in &mut taken {
            let name = image.second.claims.image.clone();
            longest = longest.max(self.first_must_end(image).with_context(|| name)?);
        }
        first_daemon.kill()?;
        first.listen = Listen::free_port()?;
        let first_daemon = first.start().context("the fenced server starts again")?;
        for image in &taken {
            let again = Target {
                setup: first.clone(),
                ..image.second.clone()
            };
            let refused = self.runtime.block_on(refused_again(&again));
            refused.with_context(|| again.claims.image.clone())?;
            self.second_must_be_its_own(image)?;
        }
        drop(first_daemon);
        second_daemon.must_run()?;
        second_daemon.stop()?;
        Ok((figures, longest))
    }

    fn load(&self, setup: &Setup, name: &str, numbers: &mut Numbers) -> Round {
        let target = Target {
            setup: setup.clone(),
            claims: Claims::image(name, u64::from(UNITS) * UNIT_BYTES),
            image: numbers.next(),
            units: UNITS,
        };
        let history = History::new(vec![ZEROES; UNITS as usize], 1);
        let shared = Shared::new(history);
        let seed = numbers.next();
        let load = load::run(target.clone(), shared.clone(), CONNECTIONS, seed);
        let load = self.runtime.spawn(load);
        Round {
            target,
            shared,
            load,
        }
    }

    /// Takes one image over, judges what the second daemon serves, and writes to it there.
    fn take(
        &self,
        round: Round,
        second: &Setup,
        numbers: &mut Numbers,
    ) -> Result<(Figures, Taken)> {
        let target = Target {
            setup: second.clone(),
            ..round.target.clone()
        };
        self.runtime
            .block_on(must_refuse(&target))
            .context("before the takeover")?;
        second.take_over(&target.claims.image)?;
        let end = round.shared.note().tick();
        let at = WallInstant::now();
        let client = self.runtime.block_on(attach(second, &target.claims))?;
        let found = self
            .runtime
            .block_on(read_image(&client, target.image, UNITS))?;
        let history = round.shared.note().clone();
        let must = history.survivors(Survives::Checkpointed);
        let figures = verdict::judge(&history, &found, &must, end)?;
        let base = found.into_iter().map(|(_, stamp)| stamp).collect();
        let shared = Shared::new(History::new(base, STAMP_GAP));
        let writes = self.runtime.block_on(async {
            for _ in 0..20 {
                load::one_write(&client, &target, &shared, numbers).await?;
            }
            Ok::<_, Ended>(())
        });
        if let Err(ended) = writes {
            bail!("the second daemon's client ended with {ended:?}");
        }
        let taken = Taken {
            round,
            second: target,
            at,
            history: shared,
        };
        Ok((figures, taken))
    }

    /// Every connection of the first daemon ends with ESHUTDOWN, in time.
    fn first_must_end(&self, taken: &mut Taken) -> Result<Duration> {
        let left = FENCED_LIMIT.saturating_sub(taken.at.elapsed());
        let load = &mut taken.round.load;
        let ended = self
            .runtime
            .block_on(async { tokio::time::timeout(left, load).await })
            .context("the first daemon does not know that it is fenced")??;
        for end in ended {
            ensure!(
                end == Ended::Fenced,
                "a client of the first daemon ended with {end:?}"
            );
        }
        Ok(taken.at.elapsed())
    }

    /// The second daemon has its own writes on top of what it took over, nothing else.
    fn second_must_be_its_own(&self, taken: &Taken) -> Result<()> {
        let target = &taken.second;
        let client = self
            .runtime
            .block_on(attach(&target.setup, &target.claims))?;
        let found = self
            .runtime
            .block_on(read_image(&client, target.image, UNITS))?;
        let history = taken.history.note();
        let must = history.survivors(Survives::Acknowledged);
        verdict::judge(&history, &found, &must, Instant::MAX)
            .with_context(|| format!("{} after the first daemon's end", target.claims.image))?;
        Ok(())
    }
}

/// Waits until the first daemon has answered something of every load: until then the image may not
/// exist, and whoever opens it first is its owner.
fn under_way(rounds: &[Round]) -> Result<()> {
    let deadline = WallInstant::now() + FENCED_LIMIT;
    for round in rounds {
        while round.shared.note().survivors(Survives::Acknowledged).len() < ANSWERED_LEAST {
            let image = &round.target.claims.image;
            ensure!(
                WallInstant::now() < deadline,
                "{image}: the load does not get going"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

/// The fenced server, back on its own buffer store, must not serve the image.
async fn refused_again(target: &Target) -> Result<()> {
    use mvps_core::client::ClientError;
    match attach(&target.setup, &target.claims).await {
        Err(ClientError::Refused(_)) => Ok(()),
        Err(other) => bail!("not refused, but: {other}"),
        Ok(_) => bail!("the fenced buffer store was let in"),
    }
}
