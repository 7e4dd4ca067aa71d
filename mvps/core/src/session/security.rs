//! How a connection is encrypted: the seam to the TLS library, which the runtime brings along.
//!
//! Must never: decide when; that is negotiated ([`crate::nbd::TlsPolicy`]).

use std::fmt;
use std::io;

use futures_util::future::BoxFuture;

use crate::env::Connection;

#[cfg(test)]
pub(super) mod tests;

/// What a server encrypts with.
pub trait Security: fmt::Debug + Send + Sync + 'static {
    /// Whether clients must.
    fn is_required(&self) -> bool;

    /// The server's side of a TLS handshake on `stream`.
    fn secure(&self, stream: Box<dyn Connection>) -> BoxFuture<'static, io::Result<Secured>>;
}

/// An encrypted stream.
pub struct Secured {
    /// What is sent and received in the clear on this side.
    pub stream: Box<dyn Connection>,
    /// Who the client proved to be.
    pub client: TlsClient,
}

/// The names in the certificate that a client proved to have: none if it showed none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsClient {
    /// DNS names among its subject alternative names.
    pub names: Vec<String>,
}
