//! The rows on a store that is near, in turns with a raw file.
//!
//! Every round begins with empty disks, and every row with nothing that waits: not for the object
//! store, not for the disk. Within a row everything runs as in production, checkpoints included,
//! and a row that writes lasts until generations have passed.

use std::collections::BTreeMap;

use anyhow::Result;
use tempfile::TempDir;

use super::contestant::{Contestant, IMAGE, timed};
use super::figures::Run;
use super::goals::{self, Store, goals};
use super::options::check_room;
use super::results::Results;
use super::rows::{FILL, Kind, NEAR, Row};
use super::setup::Bench;
use super::table::Table;
use crate::rig::host;
use crate::rig::object_server::{ObjectServer, ObjectStore};
use crate::rig::server::StandInKind;

/// How long the run lasts that warms up and says how fast a row is. Its own figures do not count.
const PILOT_SECONDS: u64 = 3;

/// What chooses the places of the runs that count, and of those before them; the round is added.
const SEED: u32 = 1000;
const PILOT_SEED: u32 = 2000;

/// Measures the rows on `store`.
///
/// # Errors
/// If something does not run.
pub fn measure(bench: &Bench<'_>, store: Store, results: &mut Results) -> Result<()> {
    let wanted = |row: &&Row| bench.options.wants(&name(store, row));
    let rows: Vec<&'static Row> = NEAR.iter().filter(wanted).collect();
    let counts_fill = wanted(&&FILL);
    if rows.is_empty() && !counts_fill {
        return Ok(());
    }
    let mut near = Near {
        bench,
        store,
        table: Table::new(title(bench, store), StandInKind::QemuNbd.name()),
        seconds: BTreeMap::new(),
    };
    if counts_fill {
        near.note_row(&FILL);
    }
    rows.iter().for_each(|row| near.note_row(row));
    // What was measured is shown also if a later round fails.
    let mut rounds = 0..bench.options.rounds;
    let outcome = rounds.try_for_each(|round| near.round(round, counts_fill, &rows));
    results.table(&near.table);
    if let Some(bytes) = near.table.highest_memory_bytes() {
        let name = format!("{}: RSS of one image, highest of these rows", store.name());
        let mib = bytes as f64 / f64::from(1 << 20);
        results.fact(&name, mib, "MiB", Some(goals::MEMORY_MIB));
    }
    outcome
}

fn title(bench: &Bench<'_>, store: Store) -> String {
    let place = match store {
        Store::Local => "local store",
        Store::S3 | Store::FarS3 => "S3 server on this machine",
    };
    format!(
        "{place}: region of {} MiB, medians of {} rounds",
        bench.options.region >> 20,
        bench.options.rounds
    )
}

fn name(store: Store, row: &Row) -> String {
    format!("{}/{}", store.name(), row.name)
}

struct Near<'a> {
    bench: &'a Bench<'a>,
    store: Store,
    table: Table,
    /// How long each row runs: the same for both contestants, in every round.
    seconds: BTreeMap<&'static str, u64>,
}

impl Near<'_> {
    fn note_row(&mut self, row: &Row) {
        let goals = goals(self.store, row.name, self.bench.has_disk_cache);
        let must_last = row.kind != Kind::Reads;
        self.table
            .row(&name(self.store, row), row.unit, goals, must_last);
    }

    fn round(&mut self, round: u32, counts_fill: bool, rows: &[&'static Row]) -> Result<()> {
        let directory = TempDir::with_prefix_in("round-", self.bench.place)?;
        let place = directory.path();
        let (server, store) = match self.store {
            Store::Local => (None, ObjectStore::Local(place.join("objects"))),
            Store::S3 | Store::FarS3 => {
                let server = ObjectServer::start(&place.join("objects"))?;
                let store = server.store(&format!("{IMAGE}/"));
                (Some(server), store)
            }
        };
        let region = self.bench.options.region;
        let mut contestants = [
            Contestant::mvps(&self.bench.binaries, store, place, region)?,
            Contestant::raw(place, region)?,
        ];
        if round % 2 == 1 {
            contestants.reverse();
        }
        for contestant in &contestants {
            contestant.settle()?;
            let further = [format!("--size={region}")];
            let run = contestant.measure(&FILL, SEED + round, &further, true)?;
            if counts_fill {
                self.note(&FILL, contestant, run);
            }
        }
        for row in rows {
            for contestant in &contestants {
                let run = self.turn(row, round, contestant)?;
                self.note(row, contestant, run);
            }
        }
        drop((contestants, server));
        directory.close()?;
        // What a deletion leaves to do for the disk is not the next round's.
        host::sync_file_system(self.bench.place)
    }

    /// One contestant's run of one row.
    fn turn(&mut self, row: &'static Row, round: u32, contestant: &Contestant) -> Result<Run> {
        let options = self.bench.options;
        if row.kind == Kind::Writes {
            let free = host::free_bytes(self.bench.place)?;
            check_room(row.name, free, options.row_bytes())?;
        }
        let pilot_seconds = PILOT_SECONDS.min(options.seconds);
        let pilot = timed(options.region, pilot_seconds);
        let pilot = contestant.run(row, PILOT_SEED + round, &pilot)?;
        contestant.settle()?;
        // mvps is first in the first round, and only mvps has generations.
        let seconds = *self.seconds.entry(row.name).or_insert_with(|| {
            let rate = pilot.written_bytes as f64 / pilot_seconds as f64;
            match row.kind {
                Kind::Reads => options.seconds,
                Kind::Writes | Kind::Fills => options.seconds_of_writing(rate),
            }
        });
        let further = timed(options.region, seconds);
        contestant.measure(row, SEED + round, &further, true)
    }

    fn note(&mut self, row: &Row, contestant: &Contestant, run: Run) {
        let name = name(self.store, row);
        eprintln!(
            "{name:<32} {:<10} {:.1} {}",
            contestant.name(),
            run.rate,
            row.unit.shown()
        );
        self.table.note(&name, contestant.side(), run);
    }
}
