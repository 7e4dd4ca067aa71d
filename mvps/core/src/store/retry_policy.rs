//! How long one try may take, and what follows a failed one. Pure decisions; the executor is
//! [`super::RetryingStore`].

use std::time::Duration;

use crate::env::{OperationKind, StoreError};

/// What the store gets for connecting, queueing and answering, before bytes count. S3 answers
/// within a second; stores that replicate synchronously over continents need several.
pub const TRY_BASE: Duration = Duration::from_secs(10);
/// The slowest transfer that is not taken for a dead connection.
pub const TRY_BYTES_PER_SECOND_MIN: u64 = 256 * 1024;
/// For requests whose work the caller does not know: whole objects of unknown size, listings of
/// all pages, completing an upload (which S3 says may take minutes).
pub const TRY_UNBOUNDED: Duration = Duration::from_secs(120);

/// The cap of the first wait; it doubles with every failure.
pub const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
/// The cap of every wait: after an outage everything is back within this time.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// The cap of the first wait when the store asks to slow down.
pub const SLOW_DOWN_FIRST: Duration = Duration::from_secs(1);
/// The cap of every wait when the store asks to slow down.
pub const SLOW_DOWN_MAX: Duration = Duration::from_secs(20);

/// A body that was cut short on the way is read again; one that is short in the store stays so.
pub const CORRUPT_TRIES_MAX: u32 = 3;

/// How long a caller waits for an unavailable store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Until it answers: reads, opening, publication (durability contract, D9).
    Forever,
    /// This long, all tries together: the tenure check, interactive commands.
    For(Duration),
    /// One try.
    Once,
}

/// What follows a failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// The caller gets the error.
    GiveUp,
    /// Try again after this long.
    Retry(Duration),
    /// Try again after this long, and hold back every other request as well.
    RetrySlowly(Duration),
}

/// How long one try may take; `bytes` go either way.
#[must_use]
pub fn try_timeout(kind: OperationKind, bytes: u64) -> Duration {
    match kind {
        OperationKind::CompleteUpload
        | OperationKind::Get
        | OperationKind::List
        | OperationKind::ListUploads
        | OperationKind::ListFolders
        | OperationKind::Delete => TRY_UNBOUNDED,
        OperationKind::Put
        | OperationKind::Create
        | OperationKind::StartUpload
        | OperationKind::UploadPart
        | OperationKind::AbortUpload
        | OperationKind::GetRange => {
            TRY_BASE + Duration::from_millis(bytes.saturating_mul(1000) / TRY_BYTES_PER_SECOND_MIN)
        }
    }
}

/// What follows after `failed_tries` (at least 1), the last of which failed with `error`,
/// `elapsed` after the first began. `draw` is uniformly random.
#[must_use]
pub fn next_step(
    error: &StoreError,
    patience: Patience,
    failed_tries: u32,
    elapsed: Duration,
    draw: u64,
) -> NextStep {
    let step = match error {
        StoreError::Unavailable { .. } => {
            NextStep::Retry(jittered(BACK_OFF_FIRST, BACK_OFF_MAX, failed_tries, draw))
        }
        StoreError::SlowDown { .. } => {
            NextStep::RetrySlowly(jittered(SLOW_DOWN_FIRST, SLOW_DOWN_MAX, failed_tries, draw))
        }
        StoreError::Corrupt { .. } if failed_tries < CORRUPT_TRIES_MAX => {
            NextStep::Retry(jittered(BACK_OFF_FIRST, BACK_OFF_MAX, failed_tries, draw))
        }
        StoreError::Corrupt { .. }
        | StoreError::NotFound { .. }
        | StoreError::AlreadyExists { .. }
        | StoreError::Denied { .. }
        | StoreError::Invalid { .. } => NextStep::GiveUp,
    };
    match (step, patience) {
        (_, Patience::Once) => NextStep::GiveUp,
        (NextStep::Retry(wait) | NextStep::RetrySlowly(wait), Patience::For(limit))
            if elapsed.saturating_add(wait) >= limit =>
        {
            NextStep::GiveUp
        }
        _ => step,
    }
}

/// Exponential back-off with full jitter: uniform below a cap that doubles with every failure.
fn jittered(first: Duration, max: Duration, failed_tries: u32, draw: u64) -> Duration {
    let doublings = failed_tries.saturating_sub(1).min(20);
    let cap = first.saturating_mul(1 << doublings).min(max);
    let cap_us = u64::try_from(cap.as_micros()).expect("caps are seconds");
    let wait_us = u64::try_from((u128::from(cap_us) * u128::from(draw)) >> 64);
    Duration::from_micros(wait_us.expect("a share of a 64-bit number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HALF: u64 = 1 << 63;

    fn error(name: &str) -> StoreError {
        let (key, reason) = ("k".to_owned(), String::new());
        match name {
            "unavailable" => StoreError::Unavailable { reason },
            "slow down" => StoreError::SlowDown { reason },
            "corrupt" => StoreError::Corrupt { key, reason },
            "not found" => StoreError::NotFound { key },
            "exists" => StoreError::AlreadyExists { key },
            "denied" => StoreError::Denied { reason },
            _ => StoreError::Invalid { reason },
        }
    }

    #[test]
    fn time_outs_grow_with_the_body() {
        for (kind, bytes, expected_ms) in [
            (OperationKind::Put, 0, 10_000),
            (OperationKind::Create, 256 * 1024, 11_000),
            (OperationKind::UploadPart, 8 << 20, 42_000),
            (OperationKind::GetRange, 64 * 1024, 10_250),
            (OperationKind::Get, 0, 120_000),
            (OperationKind::CompleteUpload, 0, 120_000),
        ] {
            let timeout = try_timeout(kind, bytes);
            assert_eq!(
                timeout,
                Duration::from_millis(expected_ms),
                "{kind:?} {bytes}"
            );
        }
        assert!(try_timeout(OperationKind::Put, u64::MAX) > TRY_BASE);
    }

    #[test]
    fn what_follows_a_failed_try() {
        use NextStep::{GiveUp, Retry, RetrySlowly};
        let millis = Duration::from_millis;
        let forever = Patience::Forever;
        for (name, patience, failed, elapsed, expected) in [
            ("unavailable", forever, 1, SECOND, Retry(millis(50))),
            ("unavailable", forever, 2, SECOND, Retry(millis(100))),
            ("unavailable", forever, 5, SECOND, Retry(millis(800))),
            ("unavailable", forever, 8, SECOND, Retry(millis(5000))),
            (
                "unavailable",
                forever,
                u32::MAX,
                1_000_000 * SECOND,
                Retry(millis(5000)),
            ),
            ("unavailable", Patience::Once, 1, SECOND, GiveUp),
            (
                "unavailable",
                Patience::For(2 * SECOND),
                1,
                SECOND,
                Retry(millis(50)),
            ),
            (
                "unavailable",
                Patience::For(2 * SECOND),
                1,
                millis(1950),
                GiveUp,
            ),
            (
                "unavailable",
                Patience::For(2 * SECOND),
                1,
                3 * SECOND,
                GiveUp,
            ),
            ("slow down", forever, 1, SECOND, RetrySlowly(millis(500))),
            ("slow down", forever, 9, SECOND, RetrySlowly(millis(10_000))),
            ("slow down", Patience::For(SECOND), 1, millis(600), GiveUp),
            ("corrupt", forever, 2, SECOND, Retry(millis(100))),
            ("corrupt", forever, 3, SECOND, GiveUp),
            ("not found", forever, 1, SECOND, GiveUp),
            ("exists", forever, 1, SECOND, GiveUp),
            ("denied", forever, 1, SECOND, GiveUp),
            ("invalid", forever, 1, SECOND, GiveUp),
        ] {
            let step = next_step(&error(name), patience, failed, elapsed, HALF);
            assert_eq!(step, expected, "{name} {patience:?} {failed} {elapsed:?}");
        }
    }

    #[test]
    fn jitter_is_full() {
        let wait = |draw| jittered(BACK_OFF_FIRST, BACK_OFF_MAX, 3, draw);
        assert_eq!(wait(0), Duration::ZERO);
        assert!(wait(u64::MAX) < Duration::from_millis(400));
        assert!(wait(u64::MAX) > Duration::from_millis(399));
    }
}
