//! NBD connections: negotiation, admission, requests and transactions of one client; and the
//! server that has many of them.
//!
//! Reading order: [`server`] accepts, `image_actor` opens and attaches, [`connection`] negotiates,
//! `transmission` is where requests spend their time. [`disk`] and [`images`] are what all of it
//! asks of the engine.
//!
//! Architecture invariant: tasks are spawned per connection and per open image, never per request.

mod connection;
mod connection_limiter;
mod contexts;
mod disk;
mod ended;
mod engine_images;
mod errno;
mod fair_scheduler;
mod image_actor;
mod images;
mod limits;
mod log_budget;
mod payload_budget;
mod security;
mod served;
mod server;
mod server_state;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod token_admission;
mod transmission;
mod version_export;

pub use connection::{Admission, Admitted, Order, serve};
pub use disk::{Disk, DiskTransaction, Outcome, ReadAt, WriteAt};
pub use ended::Ended;
pub use engine_images::EngineImages;
pub use fair_scheduler::FairScheduler;
pub use images::{ImageFacts, Images, OpenFailure, OpenImage};
pub use payload_budget::PayloadBudget;
pub use security::{Secured, Security, TlsClient};
pub use served::{Access, ServedDisk, ServedImage, ServedTransaction};
pub use server::Server;
pub use server_state::ServerConfig;
pub use version_export::VersionExport;
