//! The task that owns an open image's mutable state.
//!
//! Requests arrive as a closed enum of events and are worked off in order; commits that wait
//! together go into one buffer batch (group commit). Background work (syncs, jobs of the publisher,
//! tenure checks) runs in tasks of its own and reports back as completions, so nothing here waits
//! for object storage.
//!
//! Read `state` (what there is), `run` (the loop), `commit` (what a commit does), `acknowledge`
//! (when the client is told), `schedule` (when to seal, checkpoint, grow, close), `generations`,
//! `rollback`, `full_disk`; `waiting`, `stalled`, `plans`, `room` and `rollback_state` are the parts of the
//! state.
//!
//! Invariants: one owner of every field; a view is published only after its commits are in the
//! buffer store; nothing is acknowledged after a failure.
//!
//! Must never: wait for object storage, or read a page of it.

mod acknowledge;
mod commit;
mod completion;
mod full_disk;
mod generations;
mod plans;
mod rollback;
mod rollback_state;
mod room;
mod run;
mod schedule;
mod stalled;
mod state;
mod waiting;

pub(super) use state::{ImageTask, TaskParts};
