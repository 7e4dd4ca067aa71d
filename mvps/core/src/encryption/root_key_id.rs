//! How root keys are named, without telling anything else about them.

use std::fmt;

/// The environment variable that holds them.
pub const ROOT_KEY_VARIABLE: &str = "MVPS_TE_ROOT_KEY";

/// Most root keys at a time: one that wraps, and those from which images are still to be rekeyed.
pub const ROOT_KEYS_MAX: usize = 16;

/// Names a root key without telling anything else about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RootKeyId(pub u64);

impl fmt::Display for RootKeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}
