//! Every client by every way in, as a table: each cell is a check with an image of its own.
//!
//! What clients are asked to show here is what the protocol has beyond reads and writes: structured
//! replies, metadata contexts, block sizes, several connections, caching, fast zeroes, lengths of
//! 64 bits, coming back after a lost connection. A cell of a client that cannot use a way at all
//! says so instead of passing, and the table says why.

mod cell;
mod libnbd;
mod others;
mod qemu;

use std::path::Path;

pub use qemu::Session;

use super::way::Way;
use crate::rig::daemon::Daemon;
use crate::rig::report::Report;
use cell::{At, CANNOT, Cell};

/// The rows: each client, and the check that it runs.
const CLIENTS: &[(&str, Cell)] = &[
    ("nbdinfo", libnbd::information),
    ("nbdinfo --map", libnbd::map),
    ("nbdinfo --map=changed-since", libnbd::changed_since),
    ("nbdcopy, 4 connections", libnbd::copy),
    ("nbdsh", libnbd::script),
    ("nbdfuse", libnbd::fuse),
    ("qemu-img info, map", qemu::map),
    ("qemu-img convert, compare", qemu::convert),
    ("qemu-img bench", qemu::bench),
    ("qemu-io", qemu::patterns),
    ("qemu-io, dirty reconnect", qemu::reconnect),
    ("qemu-nbd in front", qemu::in_front),
    ("fio", others::fio_verify),
    ("nbd-client -l", others::list),
    ("nbd-client -N", others::negotiate),
    ("nbdkit nbd in front", others::nbdkit),
    ("mvps txn", others::txn),
];

/// Runs all cells; returns the table of their outcomes.
pub fn checks(
    report: &mut Report,
    area: &str,
    daemon: &Daemon,
    ways: &[Way],
    directory: &Path,
) -> String {
    let mut table = format!("\nmatrix on {area}\n  {:<30}", "");
    let mut reasons = String::new();
    for way in ways {
        table += &format!("{:<8}", way.name);
    }
    for (row, (client, cell)) in CLIENTS.iter().enumerate() {
        table += &format!("\n  {client:<30}");
        for way in ways {
            // Short: a unix socket's whole path has 107 bytes.
            let place = directory.join(format!("m{row}{}", way.name));
            let mut reason = None;
            let passed = report.check(area, &format!("{client}, {}", way.name), || {
                std::fs::create_dir_all(&place)?;
                let place = &place;
                let seen = cell(&At { way, daemon, place })?;
                reason = seen.strip_prefix(CANNOT).map(str::to_owned);
                Ok(seen)
            });
            table += match (passed, &reason) {
                (_, Some(_)) => "-       ",
                (true, _) => "ok      ",
                (false, _) => "FAILED  ",
            };
            if let Some(reason) = reason {
                reasons += &format!("\n  - {client}, {}: {reason}", way.name);
            }
            // What a cell leaves behind is of no further use, and some is large.
            let _gone_already = std::fs::remove_dir_all(&place);
        }
    }
    table + &reasons
}
