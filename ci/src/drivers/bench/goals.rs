//! What the figures are held to. Ratios are to a raw file in the same turns, on a quiet machine,
//! with a region of 4 GiB.

use super::verdict::Goal::{self, AtLeast, AtMost};

/// Where the objects are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// In a folder of the daemon's own disk.
    Local,
    /// On an S3 server.
    S3,
    /// On an S3 server far away.
    FarS3,
}

impl Store {
    /// What the names of its rows begin with.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::S3 => "s3",
            Self::FarS3 => "behind",
        }
    }
}

/// The goals of one row.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Goals {
    /// Of its rate to the other contestant's.
    pub ratio: Option<Goal>,
    /// Of its rate.
    pub rate: Option<Goal>,
    /// Of the 99th percentile of its latency.
    pub p99_ms: Option<Goal>,
    /// Of what the local disk writes for each byte of the client.
    pub local_bytes_per_byte: Option<Goal>,
}

/// mvps beside the plain SDK, which does the same work without a disk in front.
pub const PLAIN: Goals = Goals {
    ratio: Some(AtLeast(0.7)),
    rate: None,
    p99_ms: None,
    local_bytes_per_byte: None,
};

/// From the start of a daemon to its first read, with the whole region in its buffer, in seconds.
pub const RESTART_SECONDS: Goal = AtMost(1.0);

/// Resident memory of a daemon with one image, at its highest, in MiB.
pub const MEMORY_MIB: Goal = AtMost(400.0);

/// The last stretch of sustained writes beside the first.
pub const SUSTAINED_RATIO: Goal = AtLeast(0.8);

/// The 99th percentile of the latency of sustained writes.
pub const SUSTAINED_P99_MS: Goal = AtMost(50.0);

/// The goals of `row` on `store`. With a disk cache, what is uploaded is also written there.
pub fn goals(store: Store, row: &str, has_disk_cache: bool) -> Goals {
    Goals {
        ratio: ratio(store, row),
        rate: match (store, row) {
            (Store::FarS3, "randwrite512-qd8") => Some(AtLeast(10_000.0)),
            _ => None,
        },
        p99_ms: match (store, row) {
            (Store::Local | Store::S3, "fill" | "seqwrite1m-qd8") => Some(AtMost(100.0)),
            _ => None,
        },
        local_bytes_per_byte: match (store, row) {
            (Store::Local, "fill" | "seqwrite1m-qd8") => Some(AtMost(2.15)),
            (Store::S3, "fill" | "seqwrite1m-qd8" | "randwrite4k-qd1" | "randwrite4k-qd32") => {
                Some(AtMost(if has_disk_cache { 2.1 } else { 1.1 }))
            }
            _ => None,
        },
    }
}

fn ratio(store: Store, row: &str) -> Option<Goal> {
    let least = match (store, row) {
        (Store::FarS3, "randread4k-qd1") => 0.5,
        (Store::FarS3, "randread4k-qd32" | "zipf1.1-read4k-qd8") => 0.8,
        (Store::FarS3, _) => return None,
        (_, "fill" | "seqwrite1m-qd8") => 0.9,
        (_, "randwrite4k-qd1") => 1.5,
        (_, "randwrite4k-qd32") => 2.0,
        (_, "randwrite4k-qd1-fsync1" | "randwrite16k-qd8-fsync8") => 1.0,
        (_, "seqread1m-qd8" | "randrw4k-70/30-qd32") => 1.0,
        (Store::Local, "randread4k-qd1") => 0.8,
        (Store::Local, "randread4k-qd32") => 1.0,
        _ => return None,
    };
    Some(AtLeast(least))
}

#[cfg(test)]
mod tests {
    use super::super::rows::{FILL, NEAR, READ_1, READ_32, READ_ZIPF, WRITE_512};
    use super::*;

    #[test]
    fn every_goal_belongs_to_a_row() {
        let with_a_goal = |store, rows: &[&str]| {
            let all = rows.iter().copied();
            let judged = all.filter(|row| goals(store, row, false) != Goals::default());
            judged.count()
        };
        let near: Vec<&str> = NEAR.iter().chain([&FILL]).map(|row| row.name).collect();
        // All but zipf and the aged sequential read; on the S3 server also but random reads.
        assert_eq!(with_a_goal(Store::Local, &near), near.len() - 2);
        assert_eq!(with_a_goal(Store::S3, &near), near.len() - 4);
        let far = [READ_1, READ_32, READ_ZIPF, WRITE_512].map(|row| row.name);
        assert_eq!(with_a_goal(Store::FarS3, &far), far.len());
    }

    #[test]
    fn what_is_written_twice_may_be() {
        let check = |store, row, has_disk_cache, expected: Option<f64>| {
            let goal = goals(store, row, has_disk_cache).local_bytes_per_byte;
            assert_eq!(goal, expected.map(AtMost), "{store:?} {row}");
        };
        check(Store::Local, "seqwrite1m-qd8", true, Some(2.15));
        check(Store::Local, "randwrite4k-qd1", false, None);
        check(Store::S3, "randwrite4k-qd1", false, Some(1.1));
        check(Store::S3, "randwrite4k-qd1", true, Some(2.1));
        check(Store::S3, "randread4k-qd1", true, None);
        check(Store::FarS3, "fill", true, None);
    }
}
