//! What was asked of the object store, for `mvps status` and measurements.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::env::OperationKind;

/// Counts since the process began.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct StoreStatistics {
    /// Tries by method name, without those that were never made.
    pub tries: BTreeMap<&'static str, u64>,
    /// Tries that failed in a way that is retried.
    pub failed_tries: u64,
    /// Body bytes of successful puts, creates and parts.
    pub put_bytes: u64,
    /// Body bytes of successful gets.
    pub got_bytes: u64,
    /// Tries that have not ended.
    pub in_flight: u64,
}

/// The live counters. They order nothing, so relaxed accesses suffice.
#[derive(Default)]
pub(super) struct Counters {
    tries: [AtomicU64; OperationKind::ALL.len()],
    failed_tries: AtomicU64,
    put_bytes: AtomicU64,
    got_bytes: AtomicU64,
    in_flight: AtomicU64,
}

/// One try that has not ended; ends when it is dropped, also when the try is cancelled.
pub(super) struct InFlight<'a>(&'a Counters);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counters {
    pub(super) fn begin(&self, kind: OperationKind) -> InFlight<'_> {
        self.tries[kind as usize].fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }

    pub(super) fn failed(&self) {
        self.failed_tries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn put(&self, bytes: usize) {
        self.put_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn got(&self, bytes: usize) {
        self.got_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn statistics(&self) -> StoreStatistics {
        let tries = OperationKind::ALL.iter().zip(&self.tries);
        let tries = tries.map(|(kind, count)| (kind.name(), count.load(Ordering::Relaxed)));
        StoreStatistics {
            tries: tries.filter(|(_, count)| *count > 0).collect(),
            failed_tries: self.failed_tries.load(Ordering::Relaxed),
            put_bytes: self.put_bytes.load(Ordering::Relaxed),
            got_bytes: self.got_bytes.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
        }
    }
}
