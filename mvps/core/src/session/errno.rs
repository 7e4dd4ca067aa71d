//! What a client is told when the engine fails.

use crate::engine::EngineError;
use crate::nbd::Errno;

/// The errno for a failure (DESIGN.md §5).
pub(super) fn of(error: &EngineError) -> Errno {
    match error {
        EngineError::Conflict | EngineError::Aborted { .. } => Errno::Permission,
        EngineError::TransactionTooLarge { .. } => Errno::OutOfMemory,
        EngineError::Fenced { .. } | EngineError::Poisoned { .. } | EngineError::Closed => {
            Errno::Shutdown
        }
        EngineError::Full { .. } => Errno::NoSpace,
        EngineError::Corrupt { .. } | EngineError::Unreadable { .. } => Errno::Io,
        EngineError::Invalid { .. } => Errno::Invalid,
    }
}
