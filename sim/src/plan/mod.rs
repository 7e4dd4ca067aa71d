//! What a seed draws: configuration, workload and faults (swarm testing).
//!
//! Each seed enables a random subset of the faults and of the operations, because a fault that
//! happens all the time hides what happens without it.

mod areas;
mod contents;
mod drawing;
mod focus;
mod history;
mod limits;
mod other_images;
mod themes;

pub use areas::{Areas, Place};
pub use contents::{
    BUSY_OPERATIONS, DISK_VARIABLE, Events, Operations, Plan, StoreFaults, StoreProfile, root_keys,
    root_keys_exchanged,
};
pub use focus::Focus;
pub use history::{HistoryPlan, Second};
