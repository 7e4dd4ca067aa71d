//! Adapters of [`mvps_core::env::ObjectStore`]: S3 and a local folder.
//!
//! They translate requests and errors, and nothing else: no retries, no time-outs, no caching.
//! Those are the core's ([`mvps_core::store::RetryingStore`]), so that the simulation exercises
//! them. Both pass the core's conformance suite.

#[cfg(test)]
mod agreement;
mod local;
mod s3;
mod s3_error;

pub use local::LocalObjectStore;
pub use s3::{S3Location, S3ObjectStore};
