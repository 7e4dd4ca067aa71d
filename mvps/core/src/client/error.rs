//! Why a request of a client failed.

use std::io;

use crate::nbd::{Broken, Errno, ServerRefusal};

/// Why a request failed, by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The server does not serve the export.
    #[error("the export is refused: {0}")]
    Refused(#[from] ServerRefusal),
    /// The server answered with an error.
    #[error("the server answered: {0}")]
    Failed(Errno),
    /// The transaction conflicts with another, or the server ended it. Begin again.
    #[error("the transaction conflicts with another one")]
    Conflict,
    /// The request is larger than the export's largest payload, or than a compact header can say
    /// (extended headers were not negotiated). Split it.
    #[error("the request is larger than {maximum_bytes} bytes")]
    TooLarge {
        /// The export's limit.
        maximum_bytes: u32,
    },
    /// The connection is closed or was lost. What was in flight may or may not have happened.
    #[error("the connection is lost")]
    Lost,
    /// The server does not speak the protocol.
    #[error("protocol error: {0}")]
    Broken(#[from] Broken),
    /// The stream cannot be encrypted: the handshake failed, or one does not trust the other.
    #[error("TLS failed: {0}")]
    Tls(io::ErrorKind),
    /// The server answered what nobody asked.
    #[error("protocol error: a reply to no request")]
    UnknownCookie,
}
