//! The environment under simulation: what `mvps_core::env` asks for, with faults.

pub mod buffers;
pub mod clock;
pub mod disk;
pub mod disk_cache;
pub mod fate;
pub mod machine;
pub mod objects;
pub mod pausing_store;
pub mod request;
pub mod silence;
pub mod spawner;
pub mod store_frontend;
pub mod tripwire;
pub mod unreadable_objects;
pub mod wire;
