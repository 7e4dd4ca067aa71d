//! What negotiation is about: exports, what clients ask for, and what they are told.

use std::borrow::Cow;
use std::fmt;

use super::Framing;
use super::context::{Context, ContextQuery};
use super::limits::EXPORT_NAME_MAX_BYTES;
use super::wire::transmission;

/// The name of an export as a client sent it. The name is a token, so it is a secret: the `Debug`
/// output hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct ExportName(String);

impl ExportName {
    /// A name from text; `None` if it is longer than [`EXPORT_NAME_MAX_BYTES`].
    #[must_use]
    pub fn new(name: String) -> Option<Self> {
        (name.len() <= EXPORT_NAME_MAX_BYTES).then_some(Self(name))
    }

    /// The secret itself. Not for logs.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub(super) fn from_bytes(name: &[u8]) -> Option<Self> {
        Self::new(std::str::from_utf8(name).ok()?.to_owned())
    }
}

impl fmt::Debug for ExportName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ExportName({} bytes)", self.0.len())
    }
}

/// What a client wants with an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// INFO: to know about it.
    Describe,
    /// GO or EXPORT_NAME: to use it.
    Attach,
}

/// A client asks for an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportRequest {
    /// Which export.
    pub name: ExportName,
    /// What for.
    pub purpose: Purpose,
}

/// What a client wants with contexts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextPurpose {
    /// LIST_META_CONTEXT: to know which there are.
    List,
    /// SET_META_CONTEXT: to be told of them in the transmission phase.
    Select,
}

/// A client asks for metadata contexts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextsRequest {
    /// Of which export.
    pub name: ExportName,
    /// What for.
    pub purpose: ContextPurpose,
    /// What the client asked, without what mvps does not know. A list without any query asks for
    /// all. A selection has exact names only.
    pub queries: Vec<ContextQuery>,
}

/// What a negotiation ended with; the transmission phase begins with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NegotiatedOptions {
    /// How to talk.
    pub framing: Framing,
    /// What BLOCK_STATUS answers, in this order.
    pub contexts: Vec<Context>,
}

/// An export as it is announced to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Size, at most [`super::IMAGE_SIZE_MAX_BYTES`].
    pub size_bytes: u64,
    /// Preferred size and alignment of requests, a power of two.
    pub preferred_block_bytes: u32,
    /// Whether it refuses to be changed.
    pub read_only: bool,
    /// Whether several connections see one disk and a flush on one covers all.
    pub can_multi_conn: bool,
    /// Its name in public: never the token.
    pub name: String,
    /// For people.
    pub description: String,
}

impl Export {
    pub(super) fn transmission_flags(&self, framing: Framing) -> u16 {
        let mut flags = transmission::HAS_FLAGS
            | transmission::SEND_FLUSH
            | transmission::SEND_FUA
            | transmission::SEND_TRIM
            | transmission::SEND_WRITE_ZEROES
            | transmission::SEND_FAST_ZERO
            | transmission::SEND_CACHE;
        if framing != Framing::Simple {
            flags |= transmission::SEND_DF;
        }
        if self.read_only {
            flags |= transmission::READ_ONLY;
        }
        if self.can_multi_conn {
            flags |= transmission::CAN_MULTI_CONN;
        }
        flags
    }
}

/// Why an export is refused, as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The client may not (`NBD_REP_ERR_POLICY`). Says nothing more, whatever the reason.
    Policy,
    /// A permitted client asks for what cannot be served (`NBD_REP_ERR_UNKNOWN`).
    Unknown {
        /// What to tell it.
        message: Cow<'static, str>,
    },
    /// This server is going away (`NBD_REP_ERR_SHUTDOWN`).
    Shutdown,
}
