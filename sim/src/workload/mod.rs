//! What clients do, and what they tell the model.

pub mod client;
pub mod hand;
pub mod janitor;
pub mod nbd_client;
pub mod nbd_server;
pub mod server;
pub mod transaction;
