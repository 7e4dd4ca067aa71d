//! The commands that try mvps from outside: each module is one command of `cargo ci`.
//!
//! Invariant: a driver imports the rig, which starts real parts, and the model, which says what is
//! expected; it never imports another driver. What two drivers need belongs to one of those two.

pub mod advisories;
pub mod bench;
pub mod big_image;
pub mod capture;
pub mod docs;
pub mod filesystem;
pub mod foreground;
pub mod full_disk;
pub mod fuzz;
pub mod gc;
pub mod gc_crashes;
pub mod hostile;
pub mod idle;
pub mod interop;
pub mod kill;
pub mod memory;
pub mod mkfs;
pub mod outage;
pub mod point_in_time;
pub mod powercut;
pub mod sim;
pub mod space;
pub mod variants;
