//! What a daemon does by default, as far as the bench depends on it. No daemon of a table gets a
//! flag that changes it; one that does says so in its own table.

use std::time::Duration;

/// `--checkpoint-bytes`: a generation is sealed and uploaded when it is so large.
pub const GENERATION_BYTES: u64 = 256 << 20;

/// `--checkpoint-interval-ms`: or when its first write is so old.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);

/// `--cache-bytes`: what is kept of the object store in memory.
pub const MEMORY_CACHE_BYTES: u64 = 256 << 20;

/// The larger of the two. A disk cache is none of them: it is meant to hold the whole region, and
/// what that costs and brings is measured.
pub const LARGEST_BUFFER_BYTES: u64 = match GENERATION_BYTES > MEMORY_CACHE_BYTES {
    true => GENERATION_BYTES,
    false => MEMORY_CACHE_BYTES,
};

/// `--buffer-limit-bytes`: near it writes slow down.
pub const BUFFER_LIMIT_BYTES: u64 = 8 << 30;
