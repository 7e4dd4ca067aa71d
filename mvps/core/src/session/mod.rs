//! NBD connections and the server that has many of them: negotiation, admission, requests and
//! transactions.
//!
//! Reading order: [`server`] accepts connections and `connection_limiter` bounds them;
//! [`connection`] negotiates; `token_admission` checks the client's token; `image_actor` opens the
//! image and attaches the connection; `transmission` takes requests and sends replies until the
//! end. [`disk`] and [`images`] are all that these ask of the engine; `served` and `engine_images`
//! are the engine's answer.
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
pub use payload_budget::{PayloadBudget, PayloadLimits};
pub use security::{Secured, Security, TlsClient};
pub use served::{Access, ServedDisk, ServedImage, ServedTransaction};
pub use server::Server;
pub use server_state::ServerConfig;
pub use version_export::VersionExport;
