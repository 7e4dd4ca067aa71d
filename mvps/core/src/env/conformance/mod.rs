//! Suites that every implementation of an environment trait passes, real or simulated.

mod buffer_store;
mod object_store;

pub use buffer_store::check_buffer_stores;
pub use object_store::check_object_store;
