//! The server: what `mvps serve` runs.
//!
//! Builds one environment out of its settings, serves until it is told to stop, then drains.
//!
//! Must never: know flags. Whoever parses them hands over [`ServerSettings`].

mod banner;
mod cache_room;
mod drain;
mod folder_lock;
mod image_operations;
mod keys;
mod listening;
mod memory;
mod open_files;
mod operator;
mod reader_id;
mod reserve;
mod root_keys;
mod secret;
mod serve;
mod settings;
mod signals;
mod stores;
mod tls;

pub use banner::{banner, uri};
pub use drain::{DrainPatience, DrainVerdict, Drained};
pub use folder_lock::FolderLock;
pub use keys::ServerKeys;
pub use listening::{bind_all, shown};
pub use memory::ResidentMemory;
pub use reader_id::recorded_life;
pub use root_keys::{root_keys, root_keys_of_server};
pub use secret::{JwtSecret, SECRET_FILE, SECRET_VARIABLE};
pub use serve::run;
pub use settings::{
    DiskCacheSettings, EMBEDDED_PATH, EngineSettings, ImageStoreChoice, ServerSettings, TlsSettings,
};
pub use stores::{DISK_CACHE_MIN_BYTES, open_buffer_stores, open_object_store, this_process};
