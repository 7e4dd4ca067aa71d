//! Suites that every implementation of an environment trait passes, real or simulated; and lists of
//! calls drawn from a seed, to which all of them must give the same answers.

mod answers;
mod buffer_script;
mod buffer_store;
mod frame_cache;
mod object_script;
mod object_store;

pub use answers::Answers;
pub use buffer_script::{BufferBench, buffer_answers, check_power_cuts};
pub use buffer_store::check_buffer_stores;
pub use frame_cache::check_frame_cache;
pub use object_script::object_answers;
pub use object_store::check_object_store;
