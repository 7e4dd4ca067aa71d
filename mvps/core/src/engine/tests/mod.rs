//! The engine over in-memory stores: what a user relies on (durability.md), one test per promise.
//!
//! The simulation asks the same under random faults; these are the readable cases.

mod durability;
mod fencing;
mod maintenance;
mod transactions;
mod world;
