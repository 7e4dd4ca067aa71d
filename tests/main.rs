//! Black-box tests of the real binaries: processes, flags, sockets and files, nothing inside.
//!
//! A test makes a [`harness::Site`] (a directory with an object store), starts servers on it, and
//! attaches clients. Servers die with their values; the directory goes with the site.

mod command_line;
mod crashes;
mod encryption;
mod harness;
mod history;
mod ownership;
mod reading;
mod serving;
