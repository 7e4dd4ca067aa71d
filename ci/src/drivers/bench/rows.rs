//! The rows: what fio does in each, in the order in which they are measured.
//!
//! The order matters: a row finds the disk as the rows before it left it. Sequential rows come
//! first, then random writes, and the random reads meet an image that was overwritten at random.

use super::figures::Unit::{self, Mebibytes, Requests};

/// What a row does to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Writes an empty region once, from its beginning to its end.
    Fills,
    /// Writes for a time, perhaps among reads.
    Writes,
    /// Reads for a time.
    Reads,
}

/// A row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What it asks of fio, beyond [`Row::arguments`].
    fio: &'static [&'static str],
    /// What counts.
    pub unit: Unit,
    /// What it does to the disk.
    pub kind: Kind,
}

const fn row(name: &'static str, fio: &'static [&'static str], unit: Unit, kind: Kind) -> Row {
    Row {
        name,
        fio,
        unit,
        kind,
    }
}

/// The first row, which every other one needs.
pub const FILL: Row = row(
    "fill",
    &["--rw=write", "--bs=1m", "--iodepth=8"],
    Mebibytes,
    Kind::Fills,
);

/// A random read at a time.
pub const READ_1: Row = row(
    "randread4k-qd1",
    &["--rw=randread", "--bs=4k", "--iodepth=1"],
    Requests,
    Kind::Reads,
);

/// Random reads, many at a time.
pub const READ_32: Row = row(
    "randread4k-qd32",
    &["--rw=randread", "--bs=4k", "--iodepth=32"],
    Requests,
    Kind::Reads,
);

/// One read after the other, eight at a time.
pub const READ_SEQUENTIAL: Row = row(
    "seqread1m-qd8",
    &["--rw=read", "--bs=1m", "--iodepth=8"],
    Mebibytes,
    Kind::Reads,
);

/// Random reads of which most go to few pages.
pub const READ_ZIPF: Row = row(
    "zipf1.1-read4k-qd8",
    &[
        "--rw=randread",
        "--random_distribution=zipf:1.1",
        "--bs=4k",
        "--iodepth=8",
    ],
    Requests,
    Kind::Reads,
);

/// Writes of less than a page, so that the rest of each page must be read.
pub const WRITE_512: Row = row(
    "randwrite512-qd8",
    &["--rw=randwrite", "--bs=512", "--iodepth=8"],
    Requests,
    Kind::Writes,
);

/// The rows on a store that is near, after [`FILL`].
pub const NEAR: &[Row] = &[
    row(
        "seqwrite1m-qd8",
        &["--rw=write", "--bs=1m", "--iodepth=8"],
        Mebibytes,
        Kind::Writes,
    ),
    READ_SEQUENTIAL,
    row(
        "randwrite4k-qd1",
        &["--rw=randwrite", "--bs=4k", "--iodepth=1"],
        Requests,
        Kind::Writes,
    ),
    row(
        "randwrite4k-qd32",
        &["--rw=randwrite", "--bs=4k", "--iodepth=32"],
        Requests,
        Kind::Writes,
    ),
    row(
        "randwrite4k-qd1-fsync1",
        &["--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"],
        Requests,
        Kind::Writes,
    ),
    row(
        "randwrite16k-qd8-fsync8",
        &["--rw=randwrite", "--bs=16k", "--iodepth=8", "--fsync=8"],
        Requests,
        Kind::Writes,
    ),
    READ_1,
    READ_32,
    READ_ZIPF,
    row(
        "randrw4k-70/30-qd32",
        &["--rw=randrw", "--rwmixread=70", "--bs=4k", "--iodepth=32"],
        Requests,
        Kind::Writes,
    ),
    row(
        "seqread1m-qd8-aged",
        &["--rw=read", "--bs=1m", "--iodepth=8"],
        Mebibytes,
        Kind::Reads,
    ),
];

impl Row {
    /// What it asks of fio, but for how long and how far. `seed` chooses the places: both
    /// contestants of a turn get the same, and no other run does.
    pub fn arguments(&self, seed: u32) -> Vec<String> {
        // New content for every write: by default fio writes the same few buffers again and again,
        // hardly changed, and a store that compresses would keep one of sixteen pages.
        let common = ["--refill_buffers", "--norandommap"];
        let own = [
            format!("--name={}", self.name.replace('/', "-")),
            format!("--randseed={seed}"),
        ];
        let given = self.fio.iter().chain(&common);
        own.into_iter()
            .chain(given.map(ToString::to_string))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_tell_rows_apart_and_fio_gets_what_the_name_says() {
        let names: BTreeSet<&str> = NEAR.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), NEAR.len());
        for row in NEAR {
            let arguments = row.arguments(7).join(" ");
            let depth = row.name.split("qd").nth(1).expect("a depth");
            let depth: String = depth.chars().take_while(char::is_ascii_digit).collect();
            assert!(
                arguments.contains(&format!("--iodepth={depth}")),
                "{arguments}"
            );
            assert!(arguments.contains("--randseed=7"), "{arguments}");
            let reads_only = arguments.contains("read ") && !arguments.contains("randrw");
            assert_eq!(row.kind == Kind::Reads, reads_only, "{arguments}");
        }
    }
}
