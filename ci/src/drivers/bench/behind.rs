//! Reads and small writes with the S3 server far away: right after the disk was written, after a
//! checkpoint, and after a restart, in turns with a raw file.
//!
//! The rows stay in a quarter of the region, as large as what was just written, and larger than
//! the memory cache and a generation. The raw file lies in the system's page cache all the time,
//! also after a restart.

use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::contestant::{Contestant, IMAGE, timed};
use super::goals::{Store, goals};
use super::results::Results;
use super::rows::{READ_1, READ_32, READ_ZIPF, Row, WRITE_512};
use super::setup::Bench;
use super::table::Table;
use crate::rig::delay::Delay;
use crate::rig::host;
use crate::rig::object_server::{BUCKET, ObjectServer, ObjectStore};
use crate::rig::server::StandInKind;

/// What is done before each run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// The part is written; its checkpoints are still under way when the row begins.
    Write,
    /// Everything is checkpointed.
    Checkpoint,
    /// The daemon stops clean and starts again, with an empty memory and what its disk kept.
    Restart,
}

/// A row, and what is done before it.
struct Step {
    group: &'static str,
    before: Before,
    row: Row,
}

const fn step(group: &'static str, before: Before, row: Row) -> Step {
    Step { group, before, row }
}

const STEPS: &[Step] = &[
    step("written", Before::Write, READ_1),
    step("written", Before::Write, READ_32),
    step("checkpointed", Before::Checkpoint, READ_1),
    step("checkpointed", Before::Checkpoint, READ_32),
    step("restarted", Before::Restart, READ_1),
    step("restarted", Before::Restart, READ_32),
    step("restarted", Before::Restart, READ_ZIPF),
    // Last: it writes. It is not run on until generations have passed, since a page is cold once.
    step("restarted", Before::Restart, WRITE_512),
];

/// What chooses the places; the round is added.
const SEED: u32 = 3000;

impl Step {
    fn name(&self) -> String {
        format!("{}/{}/{}", Store::FarS3.name(), self.group, self.row.name)
    }
}

/// Measures the rows.
///
/// # Errors
/// If something does not run.
pub fn measure(bench: &Bench<'_>, results: &mut Results) -> Result<()> {
    let wanted = |step: &&Step| bench.options.wants(&step.name());
    let steps: Vec<&Step> = STEPS.iter().filter(wanted).collect();
    if steps.is_empty() || bench.options.behind_ms == 0 {
        return Ok(());
    }
    let title = format!(
        "S3 server behind {} ms: {} MiB, medians of {} rounds",
        bench.options.behind_ms,
        bench.options.quarter() >> 20,
        bench.options.rounds
    );
    let mut table = Table::new(title, StandInKind::QemuNbd.name());
    for step in &steps {
        let goals = goals(Store::FarS3, step.row.name, bench.has_disk_cache);
        table.row(&step.name(), step.row.unit, goals, false);
    }
    // What was measured is shown also if a later round fails.
    let mut rounds = 0..bench.options.rounds;
    let outcome = rounds.try_for_each(|round| measure_round(bench, round, &steps, &mut table));
    results.table(&table);
    outcome
}

fn measure_round(bench: &Bench<'_>, round: u32, steps: &[&Step], table: &mut Table) -> Result<()> {
    let directory = TempDir::with_prefix_in("behind-", bench.place)?;
    let place = directory.path();
    let server = ObjectServer::start(&place.join("objects"))?;
    let (far, store) = move_away(&server, bench.options.behind_ms)?;
    let mut contestants = [
        Contestant::mvps(&bench.binaries, store, place, bench.options.region)?,
        Contestant::raw(place, bench.options.region)?,
    ];
    if round % 2 == 1 {
        contestants.reverse();
    }
    if steps.iter().all(|step| step.before != Before::Write) {
        for contestant in &contestants {
            contestant.fill(bench.options.quarter())?;
        }
    }
    let further = timed(bench.options.quarter(), bench.options.seconds);
    for step in steps {
        for contestant in &mut contestants {
            match step.before {
                Before::Write => contestant.fill(bench.options.quarter())?,
                Before::Checkpoint => contestant.checkpoint()?,
                Before::Restart => contestant.restart()?,
            }
            let run = contestant.measure(&step.row, SEED + round, &further, false)?;
            let (name, unit) = (step.name(), step.row.unit.shown());
            eprintln!(
                "{name:<42} {:<10} {:.1} {unit}",
                contestant.name(),
                run.rate
            );
            table.note(&name, contestant.side(), run);
        }
    }
    drop((contestants, far, server));
    directory.close()?;
    host::sync_file_system(bench.place)
}

/// The store of `server` as a daemon far away sees it, as long as the relay lives.
fn move_away(server: &ObjectServer, behind_ms: u64) -> Result<(Delay, ObjectStore)> {
    let address = server.endpoint().strip_prefix("http://");
    let address = address.context("an endpoint without TLS")?.parse()?;
    let far = Delay::start(address, Duration::from_millis(behind_ms))?;
    let store = ObjectStore::S3 {
        endpoint: format!("http://{}", far.address()),
        bucket: BUCKET.to_owned(),
        prefix: format!("{IMAGE}/"),
    };
    Ok((far, store))
}
