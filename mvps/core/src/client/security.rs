//! How a client's connection is encrypted: the seam to the TLS library, which the runtime brings
//! along; the server's side of it is [`crate::session::Security`].

use std::fmt;
use std::io;

use futures_util::future::BoxFuture;

use crate::env::Connection;

/// What a client encrypts with, and whom it trusts.
pub trait ClientSecurity: fmt::Debug + Send + Sync {
    /// The client's side of a TLS handshake on `stream`. An error also if the server is not who it
    /// must be.
    fn secure(
        &self,
        stream: Box<dyn Connection>,
    ) -> BoxFuture<'static, io::Result<Box<dyn Connection>>>;
}
