//! What can go wrong with an open image, by what the client is told.

use crate::env::BufferError;
use crate::object_reads::ReadError;
use crate::protocol::ManifestError;

/// Why a request on an open image failed. Every later request on a fenced or failed image fails the
/// same way; reads of a failed image go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// A page that the transaction read was committed by somebody else after its view. The
    /// transaction is gone after a commit; after a lock it can only be rolled back. Begin again.
    #[error("the transaction conflicts with a later commit")]
    Conflict,
    /// The transaction was ended by the server: it grew too old, held the lock too long, or stood
    /// in the way of the buffer's limit; or the connection was replaced. Begin again.
    #[error("aborted: {reason}")]
    Aborted {
        /// Why.
        reason: &'static str,
    },
    /// The transaction would exceed a limit on written bytes, pages read or their number.
    #[error("the transaction exceeds its limit: {limit}")]
    TransactionTooLarge {
        /// Which limit.
        limit: &'static str,
    },
    /// Another writer has the image (protocol §3.2). Its buffer store is left as it is.
    #[error("fenced: {reason}")]
    Fenced {
        /// By whom.
        reason: String,
    },
    /// The buffer store failed: nothing more can be promised (reads go on).
    #[error("the buffer store failed: {reason}")]
    Poisoned {
        /// What it said.
        reason: String,
    },
    /// Stored bytes do not match their checksum. The log names object, offset and page.
    #[error("corrupt data: {reason}")]
    Corrupt {
        /// What and where.
        reason: String,
    },
    /// The object store denies what cannot be waited out (credentials, a vanished object).
    #[error("the object store fails: {reason}")]
    Unreadable {
        /// What it said.
        reason: String,
    },
    /// The image was closed, or is closing.
    #[error("the image is closed")]
    Closed,
    /// The request cannot be carried out as it stands: outside the image, or larger than a limit.
    #[error("invalid request: {reason}")]
    Invalid {
        /// What is wrong.
        reason: &'static str,
    },
}

impl From<BufferError> for EngineError {
    fn from(error: BufferError) -> Self {
        match error {
            BufferError::Corrupt { reason } => Self::Corrupt { reason },
            other => Self::Poisoned {
                reason: other.to_string(),
            },
        }
    }
}

impl From<ReadError> for EngineError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Corrupt { .. } => Self::Corrupt {
                reason: error.to_string(),
            },
            ReadError::Store(_) | ReadError::NewerFormat { .. } => Self::Unreadable {
                reason: error.to_string(),
            },
        }
    }
}

impl From<ManifestError> for EngineError {
    fn from(error: ManifestError) -> Self {
        let reason = error.to_string();
        match error {
            ManifestError::Corrupt { .. } => Self::Corrupt { reason },
            ManifestError::Store(_)
            | ManifestError::NoSuchVersion { .. }
            | ManifestError::NewerFormat { .. } => Self::Unreadable { reason },
        }
    }
}

impl EngineError {
    /// Something that a caller needs cannot be read.
    pub(super) fn unreadable(error: ManifestError) -> Self {
        Self::Unreadable {
            reason: error.to_string(),
        }
    }
}

/// A rollback to a version that is gone, or never was.
pub(super) const VERSION_GONE: EngineError = EngineError::Invalid {
    reason: "the image does not keep that version",
};
