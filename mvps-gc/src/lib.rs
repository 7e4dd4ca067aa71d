//! The garbage collector of mvps: its command line and how it shows what it does. What it does is
//! [`mvps_core::collector`].
//!
//! Results go to stdout, progress and logs to stderr. The exit code is 0 if everything went well,
//! 1 if anything failed (the rest is done all the same), 2 if the command line was wrong.
#![warn(missing_docs)]

mod args;
mod progress;
mod run;
mod summary;

pub use args::CollectorArgs;
pub use run::{main, open_collector};
pub use summary::summary;
