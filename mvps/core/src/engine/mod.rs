//! One open image: commits, views, checkpoints, publication.

pub mod fold;
pub mod frame_reader;
pub mod map;
pub mod object_cache;
pub mod object_reads;
pub mod protocol;
pub mod range_map;
pub mod read_ahead;
pub mod segment_writer;
pub mod single_flight;
