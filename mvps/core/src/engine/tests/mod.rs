//! The engine over in-memory stores: what a user relies on (durability.md), one test per promise.
//!
//! The simulation asks the same under random faults; these are the readable cases.

mod cleaning;
mod cleaning_crashes;
mod closing;
mod durability;
mod encryption;
mod extents;
mod fencing;
mod history;
mod maintenance;
mod pressure;
mod room;
mod shapes;
mod transactions;
mod world;
