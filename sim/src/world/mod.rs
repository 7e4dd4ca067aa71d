//! The environment under simulation: what `mvps_core::env` asks for, with faults.

pub mod buffers;
pub mod clock;
pub mod fate;
pub mod front;
pub mod machine;
pub mod misread;
pub mod objects;
pub mod request;
pub mod sleepy;
pub mod spawner;
pub mod tripwire;
pub mod wire;
