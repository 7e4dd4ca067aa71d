//! What an operator wants of a collection.

use std::sync::Mutex;
use std::time::Duration;

use super::expiry::ExpiryPolicy;

/// How long a clone may take from publishing its pin to creating its image before a collector
/// takes the name away from it. No safety hangs on it: a cloner that is slower fails and says so.
pub const ABANDON_AFTER: Duration = Duration::from_secs(15);

/// What an operator wants of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollectionPolicy {
    /// Which versions are to be forgotten.
    pub expiry: ExpiryPolicy,
    /// Say what would be done, and publish and delete nothing.
    pub dry_run: bool,
    /// Delete no more keys than this in one pass.
    pub deletes_max: Option<u64>,
    /// See [`ABANDON_AFTER`].
    pub abandon_after: Duration,
}

/// What is left of [`CollectionPolicy::deletes_max`], for all images of a pass together.
#[derive(Debug)]
pub struct Budget(Mutex<Option<u64>>);

impl Budget {
    /// `None` is unlimited.
    #[must_use]
    pub fn new(deletes_max: Option<u64>) -> Self {
        Self(Mutex::new(deletes_max))
    }

    /// Takes up to `wanted` deletions out of the budget.
    pub fn take(&self, wanted: usize) -> usize {
        let mut left = self.0.lock().expect("no holder panics");
        match &mut *left {
            None => wanted,
            Some(left) => {
                let taken = wanted.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                taken
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_once() {
        let budget = Budget::new(Some(5));
        assert_eq!([budget.take(3), budget.take(3), budget.take(3)], [3, 2, 0]);
        assert_eq!(Budget::new(None).take(1_000_000), 1_000_000);
    }
}
