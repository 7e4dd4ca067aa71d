//! What transactions read and wrote, and which of them conflict.
//!
//! [`Transactions`] is the task's side: who is open, who holds the lock. [`Pinned`] is shared with a
//! transaction's handle: its view and its workspace.

mod conflict;
mod transactions;
mod workspace;

pub(super) use transactions::Transactions;
pub use transactions::WINDOW_FULL;
pub(super) use workspace::{Pinned, Writes, Written, change, cost, extents_over, read_over};
