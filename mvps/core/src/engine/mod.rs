//! One open image: commits, views, checkpoints, publication.

pub mod range_map;
