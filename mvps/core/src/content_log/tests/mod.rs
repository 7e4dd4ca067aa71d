//! The content log on the simulated disk.

mod crashes;
mod damage;
mod failures;
mod formats;
mod player;
mod races;
mod suites;
