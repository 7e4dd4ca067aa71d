//! What ends a connection: the peer does not keep to the protocol.

use super::limits::OPTIONS_LIMIT;

/// The stream is out of step, or the peer will not keep to the protocol: close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// No request began where one had to.
    #[error("a request began with {magic:#010x}")]
    RequestMagic {
        /// What stood there.
        magic: u32,
    },
    /// No reply began where one had to.
    #[error("a reply began with {magic:#010x}")]
    ReplyMagic {
        /// What stood there.
        magic: u32,
    },
    /// No option, greeting or option reply began where one had to.
    #[error("negotiation out of step: found {magic:#018x}")]
    NegotiationMagic {
        /// What stood there.
        magic: u64,
    },
    /// A refused write with more payload than is worth skipping.
    #[error("a request announced {length_bytes} bytes of payload")]
    PayloadTooLarge {
        /// What it announced.
        length_bytes: u64,
    },
    /// An option or option reply with more data than is worth skipping.
    #[error("an option announced {length_bytes} bytes of data")]
    OptionTooLarge {
        /// What it announced.
        length_bytes: u32,
    },
    /// More than [`OPTIONS_LIMIT`] options.
    #[error("more than {OPTIONS_LIMIT} options")]
    TooManyOptions,
    /// Flags that this side did not offer.
    #[error("unknown handshake flags {flags:#x}")]
    HandshakeFlags {
        /// All that were set.
        flags: u32,
    },
    /// A chunk that its request does not permit, or that contradicts itself or another one.
    #[error("a reply that breaks the protocol: {reason}")]
    Reply {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Bytes arrived behind STARTTLS before it was answered. They came in the clear and must not
    /// count as encrypted.
    #[error("{bytes} bytes in the clear behind STARTTLS")]
    ClearBehindStartTls {
        /// How many.
        bytes: usize,
    },
    /// The server sent what does not answer the client's option.
    #[error("an option reply that answers nothing")]
    UnexpectedReply,
}
