//! Suites that every implementation of an environment trait passes, real or simulated.

mod object_store;

pub use object_store::check_object_store;
