//! The load: several connections, many requests in flight, transactions among them; everything
//! noted in one history before it is sent and after it is answered.
//!
//! Every other connection runs transactions, one after the other; the rest keep a fixed number of
//! plain requests in flight. Most of it goes to a small hot part of the image, so that requests
//! overlap and transactions conflict. A load ends when its connection does.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mvps_core::client::{Client, ClientError};
use mvps_core::nbd::Errno;

use super::content;
use super::history::{Effect, History, Stamp, UNIT_BYTES};
use super::target::Target;
use crate::rig::client::attach;
use crate::rig::numbers::Numbers;

/// Plain requests in flight on one connection.
const IN_FLIGHT: usize = 8;

/// The hot part of the image.
const HOT_UNITS: u64 = 256;

/// Units of a page; a trim frees whole pages only.
const PAGE_UNITS: u32 = 4;

/// Reads that are kept for the check of one connection; each costs a pass over the history.
const READS_KEPT: usize = 40;

/// A history that several connections write to.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Mutex<History>>);

impl Shared {
    /// Shares `history`.
    pub fn new(history: History) -> Self {
        Self(Arc::new(Mutex::new(history)))
    }

    /// The history, for a moment.
    pub fn note(&self) -> MutexGuard<'_, History> {
        self.0.lock().expect("nobody panics while noting")
    }
}

/// Why a connection's load ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The connection is gone, as when the daemon is killed.
    Lost,
    /// The server said ESHUTDOWN: it is fenced.
    Fenced,
    /// Something that no client should see.
    Wrong(String),
}

impl From<ClientError> for Ended {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Lost => Self::Lost,
            ClientError::Failed(Errno::Shutdown) => Self::Fenced,
            other => Self::Wrong(other.to_string()),
        }
    }
}

/// Runs `connections` until all have ended.
pub async fn run(target: Target, shared: Shared, connections: u64, seed: u64) -> Vec<Ended> {
    let mut tasks = Vec::new();
    for index in 0..connections {
        let (target, shared) = (target.clone(), shared.clone());
        let numbers = Numbers::new(seed.wrapping_mul(31).wrapping_add(index));
        tasks.push(tokio::spawn(async move {
            match attach(&target.setup, &target.claims).await {
                Err(error) => error.into(),
                Ok(client) if index % 2 == 1 => {
                    transactions(client, &target, &shared, numbers).await
                }
                Ok(client) => plain(client, &target, &shared, numbers).await,
            }
        }));
    }
    let mut ended = Vec::new();
    for task in tasks {
        let end = task.await;
        ended.push(end.unwrap_or_else(|panic| Ended::Wrong(panic.to_string())));
    }
    ended
}

/// A request of a plain connection.
#[derive(Debug)]
enum Plain {
    Write { units: Range<u32>, forced: bool },
    Zeroes { units: Range<u32>, forced: bool },
    Trim { units: Range<u32> },
    Read { units: Range<u32> },
    Flush,
}

fn choose_units(numbers: &mut Numbers, units: u32) -> Range<u32> {
    let longest = match numbers.below(20) {
        0 => 512,
        1..=4 => 128,
        _ => 16,
    };
    let length = 1 + numbers.below(longest);
    let bound = match numbers.below(5) {
        0 | 1 => u64::from(units) - length,
        _ => HOT_UNITS,
    };
    let mut first = numbers.below(bound);
    let mut length = length;
    if numbers.below(2) == 0 {
        let page = u64::from(PAGE_UNITS);
        first = first / page * page;
        length = length.next_multiple_of(page).min(u64::from(units) - first);
    }
    let narrow = |number| u32::try_from(number).expect("an image has few units");
    narrow(first)..narrow(first + length)
}

fn choose_plain(numbers: &mut Numbers, units: u32) -> Plain {
    let chosen = choose_units(numbers, units);
    let forced = numbers.below(30) == 0;
    match numbers.below(40) {
        0 => Plain::Flush,
        1 | 2 => Plain::Trim { units: chosen },
        3..=5 => Plain::Zeroes {
            units: chosen,
            forced,
        },
        6..=9 => Plain::Read { units: chosen },
        _ => Plain::Write {
            units: chosen,
            forced,
        },
    }
}

fn whole_pages(units: &Range<u32>) -> Range<u32> {
    let first = units.start.next_multiple_of(PAGE_UNITS);
    let last = units.end / PAGE_UNITS * PAGE_UNITS;
    first..last.max(first)
}

fn bytes_of(units: &Range<u32>) -> (u64, u32) {
    let unit = u32::try_from(UNIT_BYTES).expect("a unit is small");
    (
        u64::from(units.start) * UNIT_BYTES,
        (units.end - units.start) * unit,
    )
}

async fn plain(client: Client, target: &Target, shared: &Shared, mut numbers: Numbers) -> Ended {
    let mut running = FuturesUnordered::new();
    let mut end: Option<Ended> = None;
    let mut reads_left = READS_KEPT;
    loop {
        while end.is_none() && running.len() < IN_FLIGHT {
            let request = choose_plain(&mut numbers, target.units);
            let keep = matches!(request, Plain::Read { .. }) && reads_left > 0;
            reads_left -= usize::from(keep);
            running.push(one(&client, target, shared, request, keep));
        }
        match running.next().await {
            Some(Ok(())) => {}
            Some(Err(ended)) => end = Some(end.unwrap_or(ended)),
            None => return end.expect("it runs until something ended it"),
        }
    }
}

async fn one(
    client: &Client,
    target: &Target,
    shared: &Shared,
    request: Plain,
    keep: bool,
) -> Result<(), Ended> {
    match request {
        Plain::Write { units, forced } => {
            let (id, stamp) = shared.note().issue_range(units.clone(), Effect::Written);
            let (offset, _) = bytes_of(&units);
            let data = content::encode(target.image, units, stamp);
            client.write(offset, data.into(), forced).await?;
            shared.note().acknowledge(id, forced);
        }
        Plain::Zeroes { units, forced } => {
            let (offset, length) = bytes_of(&units);
            let (id, _) = shared.note().issue_range(units, Effect::Zeroed);
            client
                .write_zeroes(offset, u64::from(length), forced)
                .await?;
            shared.note().acknowledge(id, forced);
        }
        Plain::Trim { units } => {
            let (offset, length) = bytes_of(&units);
            let freed = whole_pages(&units);
            let (id, _) = shared.note().issue_range(freed, Effect::Zeroed);
            client.trim(offset, u64::from(length), false).await?;
            shared.note().acknowledge(id, false);
        }
        Plain::Read { units } => {
            let issued = shared.note().tick();
            let (offset, length) = bytes_of(&units);
            let bytes = client.read(offset, length).await?;
            let seen = content::decode(target.image, units.start, &bytes);
            let seen = seen.map_err(|damaged| Ended::Wrong(damaged.to_string()))?;
            if keep {
                shared.note().saw(issued, seen);
            }
        }
        Plain::Flush => {
            let issued = shared.note().tick();
            client.flush().await?;
            shared.note().flushed(issued);
        }
    }
    Ok(())
}

async fn transactions(
    mut client: Client,
    target: &Target,
    shared: &Shared,
    mut numbers: Numbers,
) -> Ended {
    loop {
        if let Err(ended) = transaction(&mut client, target, shared, &mut numbers).await {
            return ended;
        }
    }
}

/// One transaction: reads, drafts that are overwritten, writes, deletions; then a commit, with a
/// lock or without, or a rollback.
async fn transaction(
    client: &mut Client,
    target: &Target,
    shared: &Shared,
    numbers: &mut Numbers,
) -> Result<(), Ended> {
    let stamp = shared.note().new_stamp();
    let open = client.begin().await?;
    let mut reads = Vec::new();
    for _ in 0..numbers.below(3) {
        let units = choose_units(numbers, target.units);
        let (offset, length) = bytes_of(&units);
        match open.read(offset, length).await {
            Err(ClientError::Conflict) => return Ok(()),
            read => reads.extend(
                content::decode(target.image, units.start, &read?)
                    .map_err(|damaged| Ended::Wrong(damaged.to_string()))?,
            ),
        }
    }
    let mut effects = BTreeMap::new();
    for _ in 0..=numbers.below(4) {
        let units = choose_units(numbers, target.units);
        let written = match numbers.below(8) {
            0 => {
                let freed = whole_pages(&units);
                effects.extend(freed.clone().map(|unit| (unit, Effect::Zeroed)));
                let (offset, length) = bytes_of(&units);
                open.trim(offset, u64::from(length)).await
            }
            1 => {
                let page = units.start / PAGE_UNITS * PAGE_UNITS;
                let page = page..page + PAGE_UNITS;
                effects.extend(page.clone().map(|unit| (unit, Effect::Zeroed)));
                open.delete_page(bytes_of(&page).0).await
            }
            kind => {
                effects.extend(units.clone().map(|unit| (unit, Effect::Written)));
                let (offset, _) = bytes_of(&units);
                if kind == 2 {
                    let draft = shared.note().new_stamp();
                    let data = content::encode(target.image, units.clone(), draft);
                    match open.write(offset, data.into()).await {
                        Err(ClientError::Conflict) => return Ok(()),
                        answered => answered?,
                    }
                }
                let data = content::encode(target.image, units, stamp);
                open.write(offset, data.into()).await
            }
        };
        match written {
            Err(ClientError::Conflict) => return Ok(()),
            answered => answered?,
        }
    }
    finish(open, shared, numbers, stamp, effects, reads).await
}

async fn finish(
    open: mvps_core::client::Transaction<'_>,
    shared: &Shared,
    numbers: &mut Numbers,
    stamp: Stamp,
    effects: BTreeMap<u32, Effect>,
    reads: Vec<(u32, Stamp)>,
) -> Result<(), Ended> {
    if numbers.below(6) == 0 {
        return Ok(open.roll_back().await?);
    }
    if numbers.below(4) == 0 {
        match open.lock().await {
            Err(ClientError::Conflict) => return Ok(open.roll_back().await?),
            locked => locked?,
        }
    }
    let forced = numbers.below(5) == 0;
    let id = {
        let mut history = shared.note();
        let id = history.issue(stamp, effects);
        history.has_read(id, reads);
        id
    };
    match open.commit(forced).await {
        Ok(()) => shared.note().acknowledge(id, forced),
        Err(ClientError::Conflict) => shared.note().never(id),
        Err(other) => return Err(other.into()),
    }
    Ok(())
}

/// One plain write.
///
/// # Errors
/// Whatever ends the connection.
pub async fn one_write(
    client: &Client,
    target: &Target,
    shared: &Shared,
    numbers: &mut Numbers,
) -> Result<(), Ended> {
    let units = choose_units(numbers, target.units);
    let forced = numbers.below(4) == 0;
    one(
        client,
        target,
        shared,
        Plain::Write { units, forced },
        false,
    )
    .await
}
