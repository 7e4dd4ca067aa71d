//! How the memory of a process is shared out among what it is taken for.
//!
//! Each part holds to its share by itself, and says who waits where it ends: caches forget, uploads
//! wait for each other, writes wait for checkpoints, transactions are refused. A sixteenth is
//! nobody's: connections, threads, what is known of each image.

/// What each part of a process may take of its memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryShares {
    /// Leaves and frames that were read.
    pub cache_bytes: u64,
    /// Where the records of buffer stores are.
    pub index_bytes: u64,
    /// Segments on their way into object storage.
    pub upload_bytes: u64,
    /// What open transactions have written.
    pub transaction_bytes: u64,
    /// Payload of writes in flight.
    pub write_bytes: u64,
    /// Content of reads in flight.
    pub read_bytes: u64,
}

/// What a process takes unless it is told otherwise.
const DEFAULT_LIMIT_BYTES: u64 = 1 << 30;

impl MemoryShares {
    /// The least limit: with less, requests of the largest size (32 MiB) would wait for ever.
    pub const LIMIT_MIN_BYTES: u64 = 256 << 20;

    /// The shares of a process that is to take no more than `limit_bytes`, at least
    /// [`Self::LIMIT_MIN_BYTES`].
    #[must_use]
    pub fn of(limit_bytes: u64) -> Self {
        let share = |sixteenths: u64| limit_bytes / 16 * sixteenths;
        Self {
            cache_bytes: share(3),
            index_bytes: share(3),
            upload_bytes: share(3),
            transaction_bytes: share(2),
            write_bytes: share(2),
            read_bytes: share(2),
        }
    }

    /// The same, with `cache_bytes` for the cache and the rest for the others; `None` if that is less
    /// than they have of the least limit.
    #[must_use]
    pub fn with_cache(limit_bytes: u64, cache_bytes: u64) -> Option<Self> {
        // Three sixteenths would be the cache's.
        let rest_bytes = limit_bytes.saturating_sub(cache_bytes);
        let others_of = (rest_bytes / 13).saturating_mul(16);
        (others_of >= Self::LIMIT_MIN_BYTES).then(|| Self {
            cache_bytes,
            ..Self::of(others_of)
        })
    }
}

impl Default for MemoryShares {
    /// Those of 1 GiB.
    fn default() -> Self {
        Self::of(DEFAULT_LIMIT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_leave_something_to_nobody() {
        for limit in [MemoryShares::LIMIT_MIN_BYTES, 1 << 30, 16 << 30] {
            let shares = MemoryShares::of(limit);
            let sum = shares.cache_bytes
                + shares.index_bytes
                + shares.upload_bytes
                + shares.transaction_bytes
                + shares.write_bytes
                + shares.read_bytes;
            assert_eq!(sum, limit / 16 * 15);
        }
        let least = MemoryShares::of(MemoryShares::LIMIT_MIN_BYTES);
        assert_eq!(least.write_bytes, 32 << 20);
        let mib = 1 << 20;
        let equal = MemoryShares::with_cache(1024 * mib, 192 * mib);
        assert_eq!(equal, Some(MemoryShares::default()));
        assert_eq!(MemoryShares::with_cache(1024 * mib, 817 * mib), None);
        assert!(MemoryShares::with_cache(u64::MAX, 0).is_some());
    }
}
