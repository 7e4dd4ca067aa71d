//! The images of the storm.

/// The image that fio uses.
pub const QUIET: &str = "quiet";

/// Those of attackers that have a token.
pub const NOISY: [&str; 4] = ["noisy-0", "noisy-1", "noisy-2", "noisy-3"];

/// Their size: small enough that fio soon works on what it wrote.
pub const IMAGE_BYTES: u64 = 256 * 1024 * 1024;
