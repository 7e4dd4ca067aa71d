//! How a connection ended, as the log tells it.

use std::io;

use super::limits::{HANDSHAKE_TIME_MAX, STALL_TIME_MAX};
use crate::nbd::Broken;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The client disconnected as the protocol says.
    #[error("the client disconnected")]
    Disconnected,
    /// The client closed the stream without disconnecting first.
    #[error("the client closed the connection")]
    EndOfStream,
    /// The stream failed.
    #[error("the connection was lost: {0}")]
    Lost(io::ErrorKind),
    /// The client does not speak the protocol.
    #[error("protocol error: {0}")]
    Broken(#[from] Broken),
    /// The client took too long to negotiate.
    #[error("the handshake took more than {HANDSHAKE_TIME_MAX:?}")]
    HandshakeTooSlow,
    /// The client left a request incomplete or replies unread.
    #[error("the client stalled for {STALL_TIME_MAX:?}")]
    Stalled,
    /// EXPORT_NAME was refused, which closes the connection.
    #[error("the export was refused")]
    Refused,
    /// The TLS handshake failed, for example because the client's certificate is not accepted.
    #[error("the TLS handshake failed: {0}")]
    TlsFailed(io::ErrorKind),
    /// It negotiated for longer than others when a slot was needed.
    #[error("evicted for a newer connection before it had shown a token")]
    Evicted,
    /// There was no slot.
    #[error("turned away: too many connections")]
    TurnedAway,
    /// [`super::Order::Stop`]: a newer connection of the same client took its place.
    #[error("ended by the server")]
    Stopped,
    /// [`super::Order::Drain`].
    #[error("the server is shutting down")]
    Drained,
}
