//! The budget for what open transactions of all images of a process have written.
//!
//! One transaction's bytes are limited, and so is the number of transactions of an image; their
//! product is more memory than a machine has. What they take together has this limit, too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The largest transaction, with what its parts take beside their content.
const LARGEST_BYTES: u64 = 80 << 20;

/// The budget of one image within that of its process. Clones are the same budget.
#[derive(Debug, Clone)]
pub struct TransactionBudget {
    image: Arc<Account>,
    process: Arc<Account>,
}

#[derive(Debug)]
struct Account {
    taken: AtomicU64,
    limit_bytes: u64,
}

impl Account {
    fn new(limit_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicU64::new(0),
            limit_bytes,
        })
    }

    fn try_take(&self, bytes: u64) -> bool {
        let take = |taken: u64| {
            let after = taken.checked_add(bytes)?;
            (after <= self.limit_bytes).then_some(after)
        };
        let taken = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl TransactionBudget {
    /// The budget of an image of a process whose open transactions take `bytes` at most. Those of one
    /// image take half of it, so that they stop no other's, or one transaction of the largest size.
    #[must_use]
    pub fn of_process(bytes: u64) -> Self {
        Self::with_limits((bytes / 2).max(LARGEST_BYTES).min(bytes), bytes)
    }

    /// The budget of an image of another process, with these limits in bytes.
    #[must_use]
    pub fn with_limits(image: u64, process: u64) -> Self {
        Self {
            image: Account::new(image),
            process: Account::new(process),
        }
    }

    /// The budget of another image of this process.
    #[must_use]
    pub fn of_another_image(&self) -> Self {
        Self {
            image: Account::new(self.image.limit_bytes),
            process: Arc::clone(&self.process),
        }
    }

    fn try_take(&self, bytes: u64) -> bool {
        if !self.image.try_take(bytes) {
            return false;
        }
        let fits = self.process.try_take(bytes);
        if !fits {
            self.image.give_back(bytes);
        }
        fits
    }

    fn give_back(&self, bytes: u64) {
        self.image.give_back(bytes);
        self.process.give_back(bytes);
    }
}

/// What one transaction has reserved of a budget, until dropped.
#[derive(Debug, Default)]
pub struct TransactionReservation {
    budget: OnceLock<TransactionBudget>,
    bytes: AtomicU64,
}

impl TransactionReservation {
    /// Takes `bytes` more of `budget`, the same one each time; `false`, and nothing is taken, if
    /// there is not enough.
    #[must_use]
    pub fn grow(&self, budget: &TransactionBudget, bytes: u64) -> bool {
        if !budget.try_take(bytes) {
            return false;
        }
        self.budget.get_or_init(|| budget.clone());
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    /// Bytes that it has.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for TransactionReservation {
    fn drop(&mut self) {
        if let Some(budget) = self.budget.get() {
            budget.give_back(self.bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_shared_and_given_back() {
        let budget = TransactionBudget::with_limits(100, 100);
        let (one, two) = (
            TransactionReservation::default(),
            TransactionReservation::default(),
        );
        assert!(one.grow(&budget, 60));
        assert!(!two.grow(&budget.clone(), 41));
        assert_eq!(two.bytes(), 0);
        assert!(two.grow(&budget, 40));
        assert!(!one.grow(&budget, u64::MAX));
        drop(one);
        assert!(two.grow(&budget, 60));
        assert_eq!(two.bytes(), 100);
    }

    #[test]
    fn one_image_leaves_a_part_to_others() {
        let budget = TransactionBudget::with_limits(60, 100);
        let (one, two) = (
            TransactionReservation::default(),
            TransactionReservation::default(),
        );
        assert!(one.grow(&budget, 60));
        assert!(!one.grow(&budget, 1));
        let other = budget.of_another_image();
        assert!(!two.grow(&other, 41), "the process has a limit, too");
        assert!(two.grow(&other, 40));
        drop(one);
        assert!(two.grow(&other, 20), "what was refused took nothing");
        assert!(!two.grow(&other, 1));
    }
}
