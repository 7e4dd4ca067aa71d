//! The images that the checks use.

/// The size of the images of most checks.
pub const IMAGE_BYTES: u64 = 256 * 1024 * 1024;
