//! How a round ends: what happens to the server, and what must then be there.

use crate::model::history::Survives;
use crate::rig::numbers::Numbers;

/// What becomes of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Killed, and started again on its buffer store.
    Restarted,
    /// Killed and its buffer store lost; taken over.
    BufferLost,
    /// Taken over by another server while it is alive and under load.
    TakenOver,
    /// Ended well; another server goes on with an empty buffer store.
    Moved,
}

impl End {
    /// Half of them restarts, the rest fairly.
    pub fn choose(numbers: &mut Numbers) -> Self {
        match numbers.below(6) {
            0..=2 => Self::Restarted,
            3 => Self::BufferLost,
            4 => Self::TakenOver,
            _ => Self::Moved,
        }
    }

    /// What must survive it.
    pub fn survives(self) -> Survives {
        match self {
            Self::Restarted | Self::Moved => Survives::Acknowledged,
            Self::BufferLost | Self::TakenOver => Survives::Checkpointed,
        }
    }
}
