//! Randomness: ids, jitter, random suffixes of object names.

/// A source of randomness. Ids drawn from it must not repeat over all processes and all time, so
/// production draws from the operating system.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes` with random bytes.
    fn fill(&self, bytes: &mut [u8]);
}

/// Draws of common shapes.
pub trait EntropyExt {
    /// A random 64-bit number.
    fn u64(&self) -> u64;
    /// A random 128-bit number.
    fn u128(&self) -> u128;
    /// A number in `0..bound`, or 0 when `bound` is 0. The bias is below 2^-32 for small bounds.
    fn below(&self, bound: u64) -> u64;
}

impl<E: Entropy + ?Sized> EntropyExt for E {
    fn u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn u128(&self) -> u128 {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        u128::from_le_bytes(bytes)
    }

    fn below(&self, bound: u64) -> u64 {
        let wide = u128::from(self.u64()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("a product of two u64 shifted by 64 fits")
    }
}
