//! Connections of the drivers: the product's own client on tokio sockets.

use anyhow::{Context, Result};
use futures_util::future::BoxFuture;
use mvps_core::client::{Client, ClientError};
use mvps_core::env::Spawner;
use mvps_core::nbd::{ExportName, Opening, RequestedOptions};
use tokio::net::{TcpStream, UnixStream};

use crate::daemon::{Listen, Setup};
use crate::kill::content;
use crate::kill::history::{Stamp, UNIT_BYTES};
use crate::token::Claims;

/// How much one request of a whole-image read asks for.
const READ_UNITS: u32 = 1024;

/// The client's tasks on this runtime.
struct OnTokio;

impl Spawner for OnTokio {
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    fn compute(&self, job: Box<dyn FnOnce() + Send>) {
        tokio::task::spawn_blocking(job);
    }
}

/// Attaches to a daemon of `setup`.
///
/// # Errors
/// As the client says; [`ClientError::Lost`] also if the socket does not connect.
pub async fn attach(setup: &Setup, claims: &Claims) -> Result<Client, ClientError> {
    attach_wishing(setup, claims, Opening::Go).await
}

/// Attaches to a daemon of `setup` with what it grants of `options`.
///
/// # Errors
/// As [`attach`].
pub async fn attach_wishing(
    setup: &Setup,
    claims: &Claims,
    options: impl Into<RequestedOptions>,
) -> Result<Client, ClientError> {
    let name = ExportName::new(claims.sign()).expect("a token is shorter than the limit");
    match &setup.listen {
        Listen::Tcp(address) => {
            let stream = TcpStream::connect(address).await;
            let stream = stream.map_err(|_| ClientError::Lost)?;
            stream.set_nodelay(true).map_err(|_| ClientError::Lost)?;
            Client::connect(stream, name, options, &OnTokio).await
        }
        Listen::Unix(path) => {
            let stream = UnixStream::connect(path).await;
            let stream = stream.map_err(|_| ClientError::Lost)?;
            Client::connect(stream, name, options, &OnTokio).await
        }
    }
}

/// Reads a whole image.
///
/// # Errors
/// If a read fails, or a unit is not as any write made it.
pub async fn read_image(client: &Client, image: u64, units: u32) -> Result<Vec<(u32, Stamp)>> {
    let mut seen = Vec::with_capacity(units as usize);
    let mut first = 0;
    while first < units {
        let count = READ_UNITS.min(units - first);
        let length = count * u32::try_from(UNIT_BYTES).expect("a unit is small");
        let offset = u64::from(first) * UNIT_BYTES;
        let bytes = client.read(offset, length).await;
        let bytes = bytes.with_context(|| format!("reading at {offset}"))?;
        seen.extend(content::decode(image, first, &bytes)?);
        first += count;
    }
    Ok(seen)
}
