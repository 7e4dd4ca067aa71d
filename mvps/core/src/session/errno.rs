//! What a client is told when the engine fails.

use crate::engine::EngineError;
use crate::nbd::{Errno, Failure};

/// The errno for a failure (DESIGN.md §5), with words that give nothing away.
pub(super) fn of(error: &EngineError) -> Failure {
    let (errno, message) = match error {
        EngineError::Conflict => (Errno::Permission, "the transaction conflicts"),
        EngineError::Aborted { .. } => (Errno::Permission, "the transaction was aborted"),
        EngineError::TransactionTooLarge { .. } => {
            (Errno::OutOfMemory, "the transaction is over a limit")
        }
        EngineError::Fenced { .. } => (Errno::Shutdown, "another server has the image"),
        EngineError::Poisoned { .. } => (Errno::Shutdown, "the image's buffer store failed"),
        EngineError::Closed => (Errno::Shutdown, "the image is closed"),
        EngineError::Corrupt { .. } => (Errno::Io, "stored bytes are damaged"),
        EngineError::Unreadable { .. } => (Errno::Io, "stored bytes cannot be read"),
        EngineError::Invalid { reason } => (Errno::Invalid, *reason),
    };
    Failure {
        errno,
        message,
        offset: None,
    }
}
