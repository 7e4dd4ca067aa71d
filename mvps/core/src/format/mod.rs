//! Bytes and values: every record that leaves the process, one file per kind. Pure: no
//! environment, no async, no allocation from an unchecked length, no panic on any input.

pub mod manifest;
pub mod object_name;
