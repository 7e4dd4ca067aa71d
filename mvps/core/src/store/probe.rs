//! Refuses a store that ignores `If-None-Match`: on it two servers could publish over each other.

use bytes::Bytes;

use super::RetryingStore;
use crate::env::{EntropyExt, StoreError};

/// The one object that the probe leaves, always the same.
pub const PROBE_KEY: &str = "conditional-create-probe";

/// What the probe found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// Conditional creates work.
    Fenced,
    /// They do not, and the operator accepted it.
    Unfenced,
}

/// Why the store cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// It created an object that was there already.
    #[error(
        "the object store ignores If-None-Match: two servers could overwrite each other's images. \
         Use a store with conditional writes; --unsafe-no-fencing accepts the danger"
    )]
    IgnoresConditions,
    /// The probe got no answer.
    #[error("the object store could not be probed: {0}")]
    Store(#[from] StoreError),
}

/// Creates [`PROBE_KEY`] over itself, which must fail. With `unsafe_no_fencing` a store that lets
/// it pass is accepted.
///
/// # Errors
/// [`ProbeError::IgnoresConditions`], or the store's error when it cannot be asked.
pub async fn probe_conditional_create(
    store: &RetryingStore,
    unsafe_no_fencing: bool,
) -> Result<ProbeOutcome, ProbeError> {
    // A body never used before, so that a retry cannot take another prober's object for its own.
    let body = || Bytes::from(format!("mvps probe {:032x}\n", store.entropy().u128()));
    for _ in 0..2 {
        match store.create(PROBE_KEY, body()).await {
            // The first time ever, or a store that overwrites; the second create tells.
            Ok(()) => {}
            Err(StoreError::AlreadyExists { .. }) => return Ok(ProbeOutcome::Fenced),
            Err(error) => return Err(error.into()),
        }
    }
    if unsafe_no_fencing {
        Ok(ProbeOutcome::Unfenced)
    } else {
        Err(ProbeError::IgnoresConditions)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::env::memory::testing::TestClock;
    use crate::env::memory::{MemoryObjectStore, SeededEntropy, Verdict};

    /// A store that is made to forget the probe object before each create, which is how one that
    /// ignores the condition looks from here.
    fn store(ignores_conditions: bool, lossy: bool) -> (RetryingStore, Arc<MemoryObjectStore>) {
        let objects = Arc::new(MemoryObjectStore::new());
        let weak = Arc::downgrade(&objects);
        objects.set_script(move |operation| {
            if ignores_conditions {
                weak.upgrade().unwrap().remove(&operation.key);
            }
            if lossy && operation.number % 2 == 0 {
                Verdict::reply_lost()
            } else {
                Verdict::Serve
            }
        });
        let clock = Arc::new(TestClock::start());
        let entropy = Arc::new(SeededEntropy::new(1));
        (RetryingStore::new(objects.clone(), clock, entropy), objects)
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_ignores_conditions_is_refused() {
        for lossy in [false, true] {
            let (good, objects) = store(false, lossy);
            for _ in 0..3 {
                let outcome = probe_conditional_create(&good, false).await;
                assert_eq!(outcome, Ok(ProbeOutcome::Fenced), "lossy: {lossy}");
                assert_eq!(objects.keys(), [PROBE_KEY]);
            }
        }
        let (bad, _) = store(true, false);
        let outcome = probe_conditional_create(&bad, false).await;
        assert_eq!(outcome, Err(ProbeError::IgnoresConditions));
        let outcome = probe_conditional_create(&bad, true).await;
        assert_eq!(outcome, Ok(ProbeOutcome::Unfenced));
    }
}
