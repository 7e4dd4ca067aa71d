//! What clients do, and what they tell the model.

pub mod client;
pub mod clone_visitor;
pub mod collectors;
pub mod connector;
pub mod history;
pub mod history_operator;
pub mod late_release;
pub mod nbd_client;
pub mod nbd_server;
pub mod one_shot;
pub mod orders;
pub mod reader;
pub mod reader_group;
pub mod request_generator;
pub mod server;
pub mod transaction;
pub mod version_images;
