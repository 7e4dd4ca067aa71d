//! Object storage as the core uses it: retries, time-outs and lost replies over any `ObjectStore`.
//!
//! - [`RetryingStore`]: every request of the core goes through it.
//! - [`retry_policy`]: how long one try may take and how long to wait between tries; pure.
//! - [`UploadWriter`]: streams one large object in parts.
//! - [`probe_conditional_create`]: refuses a store on which fencing would not work.
//! - [`StoreStatistics`]: what was asked of the store.
//!
//! Architecture invariant: nothing here ever deletes an object or an upload that its caller did
//! not name, nor concludes from a missing reply that a request failed.

mod probe;
pub mod retry_policy;
mod retrying;
mod statistics;
mod upload;

pub use probe::{PROBE_KEY, ProbeError, ProbeOutcome, probe_conditional_create};
pub use retry_policy::Patience;
pub use retrying::{PART_BYTES, REQUESTS_MAX, RetryingStore};
pub use statistics::StoreStatistics;
pub use upload::{PARTS_IN_FLIGHT_MAX, PARTS_MAX, UploadWriter};
