//! What must be true, kept outside the nodes.
//!
//! The model sees what crosses a trait (a buffer batch, a sync, an object that lands) at the
//! instant it happens, and what clients are told. It keeps the total order of commits of every
//! history, and checks each event against it. `state` is what it knows, and each other file is one
//! kind of event:
//! - [`operations`]: a commit is exactly one request, whole; what is acknowledged holds;
//!   `interchangeable`: which of those that asked for the same.
//! - [`reads`]: what a read returns is what some position in its window holds.
//! - [`servers`]: what an opened image must hold; what a disk may drop.
//! - [`landing`]: what may land in the object store; `tenures`: whose history it continues.
//! - `fencing`: who may acknowledge; `timeliness`: what must have happened by now; `retirement`: what
//!   views may still read.
//! - `sparse`: what a large image is where nobody writes.
//! - `deletion`: what may be deleted from it; `readers`: who reads what is published.
//!
//! There is one for each image; [`images`] knows them all.

pub mod content;
mod deletion;
mod expiry;
mod fencing;
pub mod history;
pub mod images;
mod interchangeable;
pub mod landing;
pub mod operation;
pub mod operations;
mod published;
mod readers;
pub mod reads;
mod retirement;
pub mod servers;
mod sparse;
mod state;
mod tenures;
mod timeliness;

pub use retirement::{ReadGuard, ViewBasis};
pub use state::{Disk, Model, machine_of};
