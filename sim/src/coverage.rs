//! What a batch of seeds must have met: every fault of the catalogue and every rare situation, and
//! after which fault each oracle was asked.
//!
//! Invariant: what strikes or is reached is in the catalogue, so that a renamed fault is missed.
#![expect(clippy::print_stdout, reason = "this prints the report")]

use crate::journal::ORACLES;
use crate::runner::Summary;

/// How many fixed seeds reach everything.
pub const SEEDS: u64 = 200;

/// Each fault strikes at least so often in the fixed batch.
pub const STRIKES_MIN: u64 = 5;

/// Every fault.
pub const FAULTS: &[&str] = &[
    "buffer: another image's",
    "buffer: bit rot",
    "buffer: damaged",
    "buffer: disk full",
    "buffer: lost whole",
    "buffer: open fails",
    "buffer: read fails",
    "buffer: rolled back",
    "buffer: seal fails",
    "buffer: slow disk",
    "buffer: sync fails",
    "buffer: write fails",
    "clock: drift",
    "clock: jump",
    "crash: at a buffer commit",
    "crash: at a buffer drop",
    "crash: at a buffer seal",
    "crash: at a buffer sync",
    "crash: at a create",
    "crash: at a delete",
    "crash: at a get",
    "crash: at a list",
    "crash: at a put",
    "crash: at an upload",
    "crash: at buffer metadata",
    "manifest: bit flip",
    "manifest: of a newer format",
    "nbd: cut in mid-request",
    "nbd: hostile bytes",
    "nbd: replaced with requests in flight",
    "nbd: split and coalesced",
    "operator: adopt",
    "operator: second server",
    "operator: takeover",
    "operator: two collectors",
    "process: kill",
    "process: pause",
    "process: power cut",
    "store: applied late",
    "store: applied twice",
    "store: applied, reply lost",
    "store: bit flip",
    "store: conflict on create",
    "store: cut off",
    "store: error inside a 200",
    "store: narrow",
    "store: outage",
    "store: partial bulk delete",
    "store: refused",
    "store: slow",
    "store: slow down",
    "store: stale listing",
    "store: stall in mid-body",
    "store: stalled",
    "store: truncated body",
    "store: without conditional create",
    "store: wrong but valid object",
];

/// Every rare situation.
pub const MARKS: &[&str] = &[
    "a buffer store was adopted",
    "a client asked what changed",
    "a client fetched something early",
    "a checkpoint wrote several segments",
    "a clone appeared",
    "a clone that did not appear lost its name",
    "a clone was made of a clone",
    "a clone was served",
    "a collection failed in part",
    "a collector was frozen",
    "a collector was killed",
    "a commit without a change that failed was refused",
    "a group of commits was as large as it may be",
    "a landed version was read back whole",
    "a large image was read back",
    "a lock was granted",
    "a manifest landed below the newest",
    "a paused collector deleted late",
    "a pin was taken over from an earlier life",
    "a reader was frozen",
    "a reader was killed",
    "a release of an earlier life came late",
    "a request was revoked in flight",
    "a rollback can be undone",
    "a rollback ended a checkpoint",
    "a rollback took back a commit",
    "a running image was rolled back",
    "a server acknowledged while the store did not answer",
    "a server started where another had closed",
    "a server was killed while it closed",
    "a server was killed while it opened",
    "a server was refused",
    "a server was shut down under its clients",
    "a snapshot was deleted",
    "a snapshot was deleted while its version was pinned",
    "a snapshot was made",
    "a snapshot was made of a running image",
    "a snapshot was read back at the end",
    "a source was deleted before its clone was made",
    "a status was asked for over NBD",
    "a store was refused",
    "a superseded server acknowledged within its limit",
    "a takeover from a live server",
    "a takeover from a paused server",
    "a takeover from a server that is cut off",
    "a takeover gave up acknowledged commits",
    "a takeover landed",
    "a transaction met a conflict",
    "a transaction over NBD was refused",
    "a transaction was aborted",
    "a transaction was aborted for the conflict window",
    "a transaction was too large",
    "a version of several leaves landed",
    "a version of several map objects landed",
    "a version was read over NBD",
    "a version was read that only its pin keeps",
    "a version was read through the session layer",
    "changes of a transaction were on their way at once",
    "an image at rest was grown",
    "an image at rest was rekeyed",
    "an image at rest was rolled back",
    "an image was closed under its clients",
    "an image was deleted",
    "an image was deleted that others need",
    "an image was deleted under its server",
    "an image was made anew",
    "an image was rekeyed under its server",
    "an object was uploaded in parts",
    "an operator's command was frozen",
    "an operator's command was killed",
    "an orphan upload was aborted",
    "an unsynced tail was lost",
    "extents were asked for",
    "the collector deleted",
    "the collector released a clone's pin",
    "the pin of a dead reader was released",
    "two images were served",
    "two lives of one reader id read at once",
    "two passes ran at once",
    "writes waited at the buffer's limit",
];

/// What the seeds were to meet and did not, and what they met that nobody knows of.
#[must_use]
pub fn gaps(summary: &Summary) -> Vec<String> {
    let strikes = |name: &str| summary.faults.get(name).map_or(0, |(fault, _)| fault.count);
    let reached = |name: &&&str| summary.marks.contains_key(**name);
    let faults = FAULTS.iter().filter(|name| strikes(name) < STRIKES_MIN);
    let marks = MARKS.iter().filter(|name| !reached(name));
    let unknown_faults = summary.faults.keys();
    let unknown_faults = unknown_faults.filter(|name| !FAULTS.contains(&name.as_str()));
    let unknown_marks = summary.marks.keys();
    let unknown_marks = unknown_marks
        .filter(|name| !MARKS.contains(&name.as_str()) && !POSSIBLE_MARKS.contains(&name.as_str()));
    let unknown = unknown_faults.chain(unknown_marks);
    faults
        .map(|name| {
            let strikes = strikes(name);
            format!("strikes {strikes} times, which is less than {STRIKES_MIN}: {name}")
        })
        .chain(marks.map(|name| format!("never reached: {name}")))
        .chain(unknown.map(|name| format!("not in the catalogue: {name}")))
        .collect()
}

/// What may be reached, and is too rare to be asked of a batch.
const POSSIBLE_MARKS: &[&str] = &[
    "an operator's publication came late",
    "stale listings broke a promise",
];

/// Prints which oracle was asked how often after which fault, and which situations were reached.
pub fn print(summary: &Summary) {
    println!(
        "faults: times they struck, seeds; how often each oracle was asked after it, in thousands"
    );
    let numbers: Vec<String> = (1..=ORACLES).map(|it| format!("{it:>6}")).collect();
    println!(
        "{:<36} {:>8} {:>5} {}",
        "",
        "times",
        "seeds",
        numbers.join("")
    );
    for (name, (fault, seeds)) in &summary.faults {
        let checks: Vec<String> = fault.checks[1..].iter().map(|it| thousands(*it)).collect();
        println!(
            "{name:<36} {:>8} {seeds:>5} {}",
            fault.count,
            checks.join("")
        );
    }
    println!("sometimes: times reached, seeds");
    for (name, (count, seeds)) in &summary.marks {
        println!("{name:<56} {count:>8} {seeds:>5}");
    }
}

fn thousands(count: u64) -> String {
    match count {
        0 => format!("{:>6}", "-"),
        1..1000 => format!("{:>6}", format!("0.{}", (count / 100).max(1))),
        _ => format!("{:>6}", count / 1000),
    }
}
