//! The NBD protocol, sans IO: what bytes mean and which bytes to send, on both sides.
//!
//! Job: turn bytes into values that are valid by construction ([`Request`], [`ExportRequest`])
//! and values into bytes. The reference is the NBD project's `doc/proto.md`; doc comments cite
//! its sections.
//!
//! Invariants:
//! - This is the only place with NBD numbers.
//! - No input panics, and no length that a peer sent decides an allocation before it was compared
//!   with a named limit.
//! - After a refused request the stream is in step, or [`Broken`] says that it is not.
//!
//! Must never: do IO, read a clock, or know what an image is. What a later stage of the protocol
//! adds has its place: TLS is one more [`Step`], structured replies and extended headers are
//! further kinds of [`Framing`].

mod client_negotiation;
mod limits;
mod negotiation;
mod outgoing;
mod reply;
mod request;
#[cfg(test)]
mod tests;
mod wire;

pub use client_negotiation::{ClientNegotiation, ClientStep, Opening, RemoteExport, ServerRefusal};
pub use limits::{
    EXPORT_NAME_MAX_BYTES, IMAGE_SIZE_MAX_BYTES, OPTION_DATA_LIMIT_BYTES, OPTION_SKIP_LIMIT_BYTES,
    OPTIONS_LIMIT, PAYLOAD_MAX_BYTES, WRITE_SKIP_LIMIT_BYTES,
};
pub use negotiation::{
    Broken, Export, ExportName, ExportRequest, Negotiation, Purpose, Refusal, Step, TlsPolicy,
};
pub use outgoing::Outgoing;
pub use reply::{SIMPLE_REPLY_BYTES, SimpleReply};
pub use request::{Bounds, Cookie, Incoming, REQUEST_BYTES, Request};
pub use wire::Errno;

/// How requests and replies are framed once negotiation is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Compact requests, simple replies ("Simple reply message").
    Simple,
}
