//! What a server says of an export, as values: what it can do, or why it is not served.

use super::Framing;
use super::limits::PAYLOAD_MAX_BYTES;
use super::wire::transmission;

/// A context that the server selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteContext {
    /// The number that its extents carry.
    pub id: u32,
    /// Its name.
    pub name: String,
}

/// An export as the server announced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteExport {
    /// Size.
    pub size_bytes: u64,
    /// Whether it refuses to be changed.
    pub read_only: bool,
    /// Whether FLUSH is understood.
    pub can_flush: bool,
    /// Whether FUA is understood.
    pub can_fua: bool,
    /// Whether TRIM is understood.
    pub can_trim: bool,
    /// Whether WRITE_ZEROES is understood.
    pub can_write_zeroes: bool,
    /// Whether several connections see one disk.
    pub can_multi_conn: bool,
    /// Whether CACHE is understood.
    pub can_cache: bool,
    /// Whether FAST_ZERO is understood.
    pub can_fast_zero: bool,
    /// Whether DF is understood.
    pub can_df: bool,
    /// How requests and replies are framed.
    pub framing: Framing,
    /// The contexts of which BLOCK_STATUS tells.
    pub contexts: Vec<RemoteContext>,
    /// Smallest block, 1 if not announced.
    pub minimum_block_bytes: u32,
    /// Preferred block, 4096 if not announced.
    pub preferred_block_bytes: u32,
    /// Largest payload, [`PAYLOAD_MAX_BYTES`] if not announced.
    pub maximum_payload_bytes: u32,
    /// Its canonical name, if announced.
    pub name: Option<String>,
    /// Its description, if announced.
    pub description: Option<String>,
}

impl RemoteExport {
    pub(super) fn new(size_bytes: u64, flags: u16) -> Self {
        let has = |flag: u16| flags & flag != 0;
        Self {
            size_bytes,
            read_only: has(transmission::READ_ONLY),
            can_flush: has(transmission::SEND_FLUSH),
            can_fua: has(transmission::SEND_FUA),
            can_trim: has(transmission::SEND_TRIM),
            can_write_zeroes: has(transmission::SEND_WRITE_ZEROES),
            can_multi_conn: has(transmission::CAN_MULTI_CONN),
            can_cache: has(transmission::SEND_CACHE),
            can_fast_zero: has(transmission::SEND_FAST_ZERO),
            can_df: has(transmission::SEND_DF),
            framing: Framing::Simple,
            contexts: Vec::new(),
            minimum_block_bytes: 1,
            preferred_block_bytes: 4096,
            maximum_payload_bytes: PAYLOAD_MAX_BYTES,
            name: None,
            description: None,
        }
    }
}

/// The server's answer when it does not serve the export.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerRefusal {
    /// `NBD_REP_ERR_POLICY`
    #[error("not permitted: {message}")]
    Policy {
        /// The server's words.
        message: String,
    },
    /// `NBD_REP_ERR_UNKNOWN`
    #[error("not available: {message}")]
    Unknown {
        /// The server's words.
        message: String,
    },
    /// `NBD_REP_ERR_SHUTDOWN`
    #[error("shutting down: {message}")]
    Shutdown {
        /// The server's words.
        message: String,
    },
    /// Any other.
    #[error("refused with {code:#x}: {message}")]
    Other {
        /// The reply type.
        code: u32,
        /// The server's words.
        message: String,
    },
}
