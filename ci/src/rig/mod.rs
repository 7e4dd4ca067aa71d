//! How real parts are built, started, stopped and asked: mvps, the S3 server, other NBD servers and
//! clients, disks, the machine's tools; and the report that every command prints.
//!
//! Invariant: the rig knows neither what a driver does with its parts nor what is expected of them;
//! it imports neither the drivers nor the model.

pub mod client;
pub mod command;
pub mod daemon;
pub mod delay;
pub mod disk;
pub mod fio;
pub mod host;
pub mod image_file;
pub mod machine;
pub mod mounted;
pub mod numbers;
pub mod object_server;
pub mod process;
pub mod relay;
pub mod report;
pub mod server;
pub mod token;
pub mod workspace;
