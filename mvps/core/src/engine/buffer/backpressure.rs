//! How long a write waits before it is admitted, by how full the buffer is (D9).
//!
//! Up to half of the limit nothing waits. Above it the delay per written byte grows with the square
//! of the fill, so that writers slow down smoothly long before the limit; at the limit they wait
//! until a generation was dropped. Pure.

use std::time::Duration;

/// Fill from which writes are slowed, as a fraction of the limit.
pub const SLOW_FROM: f64 = 0.5;

/// Delay of one MiB just below the limit: about 2 MiB/s per writer are let in there.
const DELAY_PER_MIB_AT_LIMIT: Duration = Duration::from_millis(500);

/// Longest delay of one request, so that a client's own time-out is never near.
pub const DELAY_MAX: Duration = Duration::from_secs(2);

/// What to do with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Admit it after this long (often zero).
    After(Duration),
    /// Hold it until room was made.
    Wait,
}

/// Decides about a write of `bytes` where so much is taken: 1 at the limit.
#[must_use]
pub fn admit(fill: f64, bytes: u64) -> Admission {
    if fill >= 1.0 {
        return Admission::Wait;
    }
    if fill <= SLOW_FROM {
        return Admission::After(Duration::ZERO);
    }
    let over = (fill - SLOW_FROM) / (1.0 - SLOW_FROM);
    let mib = bytes as f64 / f64::from(1 << 20);
    let delay = DELAY_PER_MIB_AT_LIMIT.mul_f64(over * over * mib);
    Admission::After(delay.min(DELAY_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    fn fill(used: u64) -> f64 {
        used as f64 / (8 * GIB) as f64
    }

    fn check(used: u64, bytes: u64, expected: Admission) {
        let admission = admit(fill(used), bytes);
        assert_eq!(admission, expected, "used {used} bytes {bytes}");
    }

    #[test]
    fn writes_slow_down_gradually_and_wait_only_at_the_limit() {
        check(0, MIB, Admission::After(Duration::ZERO));
        check(4 * GIB, 32 * MIB, Admission::After(Duration::ZERO));
        check(6 * GIB, MIB, Admission::After(Duration::from_millis(125)));
        check(8 * GIB - 1, 32 * MIB, Admission::After(DELAY_MAX));
        check(8 * GIB, 1, Admission::Wait);
        check(9 * GIB, 1, Admission::Wait);
    }

    #[test]
    fn the_delay_never_falls_as_the_buffer_fills() {
        let mut last = Duration::ZERO;
        for used in (0..8 * GIB).step_by(64 << 20) {
            let Admission::After(delay) = admit(fill(used), MIB) else {
                panic!("{used} is below the limit")
            };
            assert!(delay >= last);
            last = delay;
        }
    }
}
