//! What clients do, and what they tell the model.

pub mod client;
pub mod janitor;
pub mod server;
pub mod transaction;
