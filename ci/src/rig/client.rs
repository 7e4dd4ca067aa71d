//! Connections of the drivers: mvps's own client on tokio sockets.

use futures_util::future::BoxFuture;
use mvps_core::client::{Client, ClientError};
use mvps_core::env::Spawner;
use mvps_core::nbd::{ExportName, Opening, RequestedOptions};
use tokio::net::{TcpStream, UnixStream};

use crate::rig::daemon::{Listen, Setup};
use crate::rig::token::Claims;

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
    attach_with(setup, claims, Opening::Go).await
}

/// Attaches to a daemon of `setup` and negotiates `options`, or as many of them as it grants.
///
/// # Errors
/// As [`attach`].
pub async fn attach_with(
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
