//! The disk cache on the simulated disk.

mod crashes;
mod damage;
mod eviction;
mod model;
mod player;
mod suites;
