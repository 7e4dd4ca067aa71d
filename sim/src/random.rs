//! Reproducible random choices, in streams that do not disturb each other.
//!
//! Invariant: a stream is decided by the seed and its name alone. A name is therefore an identity
//! and not a label: who renames a stream, or a machine or process whose name is part of one, makes
//! every seed a different run, and regression seeds, cases and known seeds of variants with it.

use std::ops::Range;
use std::time::Duration;

use mvps_core::env::EntropyExt;
use mvps_core::env::memory::SeededEntropy;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// One stream of random choices.
pub struct RandomStream(SeededEntropy);

impl RandomStream {
    /// The stream `name` of `seed`.
    #[must_use]
    pub fn new(seed: u64, name: &str) -> Self {
        Self(SeededEntropy::new(stream(seed, name)))
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    /// A number within `range`.
    pub fn within(&self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of `values`.
    pub fn pick<T: Copy>(&self, values: &[T]) -> T {
        let index = usize::try_from(self.below(values.len() as u64)).expect("an index");
        values[index]
    }

    /// An index, as likely as its weight.
    pub fn weighted(&self, weights: &[u64]) -> usize {
        let mut left = self.below(weights.iter().sum());
        for (index, weight) in weights.iter().enumerate() {
            if left < *weight {
                return index;
            }
            left -= weight;
        }
        0
    }

    /// A duration between two, small ones more likely: uniform in the exponent.
    pub fn duration(&self, least: Duration, most: Duration) -> Duration {
        let (least, most) = (micros(least).max(1), micros(most).max(1));
        let doublings = 64 - (most / least).leading_zeros();
        let cap =
            least.saturating_shl(u32::try_from(self.below(u64::from(doublings) + 1)).unwrap_or(0));
        Duration::from_micros(self.within(least..cap.clamp(least + 1, most.max(least + 1))))
    }

    /// Random bits.
    pub fn bits(&self) -> u64 {
        self.0.u64()
    }
}

/// The seed of a stream.
#[must_use]
pub fn stream(seed: u64, name: &str) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), seed)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

trait SaturatingShl {
    fn saturating_shl(self, by: u32) -> Self;
}

impl SaturatingShl for u64 {
    fn saturating_shl(self, by: u32) -> u64 {
        if by > self.leading_zeros() {
            u64::MAX
        } else {
            self << by.min(63)
        }
    }
}
