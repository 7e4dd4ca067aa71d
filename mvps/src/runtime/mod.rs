//! The environment traits over tokio and the operating system.
//!
//! Each file implements one trait of [`mvps_core::env`] and decides nothing: policy (retries,
//! time-outs, limits) is the core's, so that the simulation exercises it.

mod clock;
mod entropy;
mod network;
mod spawner;
mod tls;

pub use clock::TokioClock;
pub use entropy::OsEntropy;
pub use network::TokioNetwork;
pub(crate) use network::remove_stale_socket;
pub use spawner::TokioSpawner;
pub use tls::{ClientTlsFiles, RustlsClientSecurity, RustlsSecurity, TlsFiles};
