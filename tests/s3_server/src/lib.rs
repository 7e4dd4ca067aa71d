//! An S3 server over HTTP for tests and measurements: `s3s` and `s3s-fs` on a directory, made as
//! strict as S3 where `s3s-fs` is lenient ([`bucket`]), with counters, and a proxy in front that can
//! take the store away ([`proxy`]).
//!
//! In a test: [`S3Server::start`], then point a client at [`S3Server::endpoint`] with
//! [`ACCESS_KEY`], [`SECRET_KEY`], [`REGION`] and [`BUCKET`]. From another process: the binary of
//! this package, which prints its endpoint and takes commands on its standard input.

pub mod bucket;
mod listing;
pub mod proxy;
mod server;

pub use proxy::{Proxy, ProxyMode};
pub use server::{RequestCounts, S3Server};

/// The access key that the server accepts.
pub const ACCESS_KEY: &str = "test-access-key";
/// The secret key that goes with it.
pub const SECRET_KEY: &str = "test-secret-key";
/// The region; any would do.
pub const REGION: &str = "us-east-1";
/// The bucket that is there from the start.
pub const BUCKET: &str = "mvps-test";
