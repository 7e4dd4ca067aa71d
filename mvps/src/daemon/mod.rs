//! The server: what `mvps serve` runs.
//!
//! Builds one environment out of the flags, serves until it is told to stop, then drains.

mod counted_store;
mod folder_lock;
mod memory;
mod secret;
mod settings;

pub use counted_store::{CountedStore, ObjectStoreCounters};
pub use folder_lock::FolderLock;
pub use memory::ResidentMemory;
pub use secret::{JwtSecret, SECRET_FILE, SECRET_VARIABLE};
pub use settings::{EMBEDDED_PATH, ImageStoreChoice, SettingsError};
