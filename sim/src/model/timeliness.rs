//! What must have happened by now (oracle 11): with a store that answers, what was committed has
//! landed after the checkpoint interval and [`SLACK`], and who waits for the object store has its
//! answer after the slack alone.
//!
//! Excuses, each with its bound: the bytes that have to land first, at [`BYTES_PER_SECOND_MIN`],
//! [`SEGMENTS_PER_SECOND_MIN`] and [`SECONDS_PER_GENERATION`]; the time until the last request of the server that went wrong was
//! over (what a try may take, `Fate::lasts`), a pause of its machine, and a call for which its disk
//! had no room, begin the wait anew; a disk that failed, and a rollback in place, end it.

use std::time::Duration;

use mvps_core::engine::EngineConfig;
use mvps_core::ids::Lsn;

use super::state::{Disk, Model, Server, State, machine_of};
use crate::journal;

/// What a checkpoint takes that nothing hinders, with one job before it and the longest wait after
/// an outage (ten seconds): segments of small images on narrow links, and slow disks.
pub const SLACK: Duration = Duration::from_secs(60);

/// What a server uploads at least: parts of a few pages, one round trip each, on a narrow link.
const BYTES_PER_SECOND_MIN: u64 = 200_000;

/// Where segments are cut smaller: so many of them.
const SEGMENTS_PER_SECOND_MIN: u64 = 10;

/// Where generations are small: a checkpoint, and the step of cleaning that follows it.
const SECONDS_PER_GENERATION: u64 = 2;

/// The interval is drawn by up to a tenth longer.
const JITTER: u32 = 10;

impl Model {
    /// How long what is committed may wait until it lands, if nothing is in its way.
    #[must_use]
    pub fn lands_within(&self) -> Duration {
        self.checkpoint_interval + self.checkpoint_interval / JITTER + SLACK
    }

    fn upload_of(&self, bytes: u64) -> Duration {
        Duration::from_secs(bytes / self.upload_bytes_per_second)
    }

    /// What the uploads take, at most, that the servers of `machine` have before them.
    #[must_use]
    pub fn backlog_of(&self, machine: &str) -> Duration {
        let state = self.state();
        let servers = state.servers.iter();
        let of_machine = servers.filter(|(name, it)| machine_of(name) == machine && !it.ended);
        let bytes = of_machine.map(|(_, server)| server.unlanded_bytes).max();
        self.upload_of(bytes.unwrap_or(0))
    }

    /// Until `until` the store did not do for `process` what it was asked.
    pub(super) fn trouble(&self, process: &str, until: Duration) {
        let mut state = self.state();
        let last = state.trouble.entry(process.to_owned()).or_default();
        *last = until.max(*last);
    }

    /// The image of `server` is closed, or of no more use.
    pub fn ended(&self, server: &str) {
        if let Some(known) = self.state().servers.get_mut(server) {
            known.ended = true;
        }
    }

    /// Something struck the disk of `machine`.
    pub fn struck(&self, machine: &str) {
        self.state().disk(machine).struck = true;
    }

    /// The disk of `machine` had no room, or its process no descriptor.
    pub fn had_no_room(&self, machine: &str) {
        self.state().disk(machine).resumed = Some(journal::now());
    }

    /// The machine sleeps.
    pub fn paused(&self, machine: &str) {
        self.state().disk(machine).paused = true;
    }

    /// Asks everybody who could be late.
    pub fn check_timely(&self) {
        let state = self.state();
        let now = journal::now();
        for (name, server) in &state.servers {
            let Some(disk) = state.disks.get(machine_of(name)) else {
                continue;
            };
            if !state.is_active_writer(name) || !is_able(server, disk) {
                continue;
            }
            let healthy = state.healthy_since(name, disk);
            let late = |since: Duration, within: Duration| now > since.max(healthy) + within;
            self.journal.checked(11);
            if let Some(Unlanded {
                lsn, since, ahead, ..
            }) = server.unlanded.front()
                && late(*since, self.lands_within() + self.upload_of(*ahead))
            {
                self.journal.fail(
                    "11 (timeliness)",
                    format_args!(
                        "{name} has had commit {lsn} since {since:?}, and it has not landed; \
                         nothing was in its way since {healthy:?}"
                    ),
                );
            }
            let waiting = state.operations.iter().filter(|(_, it)| it.server == *name);
            let mut waiting = waiting.filter_map(|(id, it)| Some((id, it.wants_store_since?)));
            let is_late = |since: Duration, behind| late(since, SLACK + self.upload_of(behind));
            if let Some((id, (since, _))) = waiting.find(|(_, (since, it))| is_late(*since, *it)) {
                self.journal.fail(
                    "11 (timeliness)",
                    format_args!(
                        "operation {id} of {name} has waited for the store since {since:?}; \
                         nothing was in its way since {healthy:?}"
                    ),
                );
            }
        }
    }
}

/// A commit that has not landed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unlanded {
    lsn: Lsn,
    /// When it was made, or found.
    since: Duration,
    bytes: u64,
    /// Bytes that had to land then, its own included.
    ahead: u64,
}

/// What a server of this configuration uploads in a second, at least.
pub(super) fn upload_bytes_per_second(config: &EngineConfig) -> u64 {
    let segments = config.limits.segment_content_bytes * SEGMENTS_PER_SECOND_MIN;
    let generations = config.checkpoint_bytes / SECONDS_PER_GENERATION;
    segments.min(generations).min(BYTES_PER_SECOND_MIN)
}

/// Whether the server can be expected to publish.
fn is_able(server: &Server, disk: &Disk) -> bool {
    server.tenure.is_some()
        && !server.ended
        && !server.rolling_back
        && server.fenced.is_none()
        && !disk.paused
        && !disk.struck
}

impl State {
    /// Since when nothing was in the way of a server.
    fn healthy_since(&self, server: &str, disk: &Disk) -> Duration {
        let trouble = self.trouble.get(server).copied();
        trouble.max(disk.resumed).unwrap_or_default()
    }

    /// `server` has `lsn`, which takes `bytes`, on its disk, and it has not landed.
    pub(super) fn note_unlanded(&mut self, server: &str, lsn: Lsn, bytes: u64) {
        let Some(known) = self.servers.get_mut(server) else {
            return;
        };
        known.unlanded_bytes += bytes;
        known.unlanded.push_back(Unlanded {
            lsn,
            since: journal::now(),
            bytes,
            ahead: known.unlanded_bytes,
        });
    }

    /// Everything of `server` up to `lsn` has landed.
    pub(super) fn note_landed(&mut self, server: &str, lsn: Lsn) {
        let Some(known) = self.servers.get_mut(server) else {
            return;
        };
        while let Some(first) = known.unlanded.front().filter(|it| it.lsn <= lsn) {
            known.unlanded_bytes -= first.bytes;
            known.unlanded.pop_front();
        }
    }
}
