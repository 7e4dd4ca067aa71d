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
//! Must never: do IO, read a clock, or know what an image is.

mod broken;
mod client_negotiation;
mod client_reply;
mod context;
mod export;
mod framing;
mod limits;
mod negotiation;
mod outgoing;
mod remote;
mod reply;
mod request;
#[cfg(test)]
mod tests;
mod wire;

pub use broken::Broken;
pub use client_negotiation::{ClientNegotiation, ClientStep, Opening, RequestedOptions};
pub use client_reply::{Answer, ChunkHead, Expected, Gathering, RemoteFailure, ReplyHead};
pub use context::{Context, ContextName, ContextQuery, ContextStatus, Since, StatusExtent};
pub use export::{
    ContextPurpose, ContextsRequest, Export, ExportName, ExportRequest, NegotiatedOptions, Purpose,
    Refusal,
};
pub use framing::Framing;
pub use limits::{
    CHUNK_MAX_BYTES, CONTEXT_QUERIES_MAX, CONTEXTS_MAX, ERROR_MESSAGE_MAX_BYTES,
    EXPORT_NAME_MAX_BYTES, EXTENTS_MAX, IMAGE_SIZE_MAX_BYTES, OPTION_DATA_LIMIT_BYTES,
    OPTION_SKIP_LIMIT_BYTES, OPTIONS_LIMIT, PAYLOAD_MAX_BYTES, WRITE_SKIP_LIMIT_BYTES,
};
pub use negotiation::{Negotiation, Step, TlsPolicy};
pub use outgoing::Outgoing;
pub use remote::{RemoteContext, RemoteExport, ServerRefusal};
pub use reply::{
    EXTENDED_CHUNK_BYTES, Failure, SIMPLE_REPLY_BYTES, STRUCTURED_CHUNK_BYTES, SimpleReply,
};
pub use request::{
    Bounds, Cookie, EXTENDED_REQUEST_BYTES, Incoming, REQUEST_BYTES, ReplyTo, Request, ZeroFlags,
};
pub use wire::Errno;
