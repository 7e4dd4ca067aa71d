//! One open image: commits, views, checkpoints, publication.

pub mod protocol;
pub mod range_map;
pub mod read_ahead;
pub mod single_flight;
