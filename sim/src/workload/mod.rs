//! What clients do, and what they tell the model.

pub mod archivist;
pub mod client;
pub mod collectors;
pub mod guest;
pub mod hand;
pub mod history;
pub mod nbd_client;
pub mod nbd_server;
pub mod program;
pub mod reader;
pub mod server;
pub mod transaction;
