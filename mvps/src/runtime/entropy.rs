//! Randomness from the operating system.

use mvps_core::env::Entropy;

/// Every draw is a `getrandom` call: ids must not repeat over all processes and all time, and a
/// generator in the process could repeat after a fork or a restored virtual machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system gives randomness once it has booted");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mvps_core::env::EntropyExt;

    use super::*;

    #[test]
    fn draws_differ() {
        let drawn: BTreeSet<u128> = (0..1000).map(|_| OsEntropy.u128()).collect();
        assert_eq!(drawn.len(), 1000);
    }
}
