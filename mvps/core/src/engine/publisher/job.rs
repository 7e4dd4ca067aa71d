//! What the publisher is asked to do, and how it went.

use super::cleaning::Hurry;
use super::publication::Failed;
use super::state::Publisher;
use crate::engine::buffer::GenerationIndex;
use crate::engine::error::EngineError;
use crate::engine::read::Map;
use crate::engine::reply::RolledBack;
use crate::format::manifest::Manifest;
use crate::ids::Lsn;

/// What the publisher is asked.
pub(in crate::engine) struct RollbackOrder {
    pub(in crate::engine) to: Box<Manifest>,
    pub(in crate::engine) map: Map,
    /// Above everything in the buffer.
    pub(in crate::engine) lsn: Lsn,
}

/// What the publisher is asked to do.
pub(in crate::engine) enum Job {
    /// Carry a sealed generation to object storage.
    Checkpoint(GenerationIndex),
    /// Copy some live pages out of segments that are mostly dead.
    Clean(Hurry),
    /// Publish nothing new, so that what was retired leaves the list.
    Release,
    /// Publish a larger size.
    Grow(u64),
    /// Begin a new tenure with an earlier version's map.
    RollBack(Box<RollbackOrder>),
    /// Publish that nobody is the active writer.
    Close,
}

/// How it went.
pub(in crate::engine) enum JobOutcome {
    /// The generation is published; read it through this map from now on.
    Checkpointed { map: Map },
    /// Read through this map from now on, if there is another one: it has the same content.
    Cleaned { map: Option<Map> },
    /// The image has this size.
    Grown { size_bytes: u64 },
    /// A rollback was published, or it could not be and the image goes on as it was.
    RolledBack {
        outcome: Result<RolledBack, EngineError>,
        map: Map,
    },
    /// The task wanted it abandoned; nothing was published.
    Abandoned,
    /// The image is clean.
    Closed,
    /// Another writer has the image.
    Fenced { reason: String },
    /// The object store refuses the work in a way that waiting does not cure; nothing was
    /// published.
    Refused { reason: String },
    /// The buffer store failed, or what it or the map says is damaged.
    BufferFailed(EngineError),
}

/// A finished job, and the publisher for the next one.
pub(in crate::engine) struct JobDone {
    pub(in crate::engine) publisher: Box<Publisher>,
    pub(in crate::engine) outcome: JobOutcome,
}

impl From<Failed> for JobOutcome {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Fenced(reason) => Self::Fenced { reason },
            Failed::Broken(reason) => Self::BufferFailed(EngineError::Poisoned { reason }),
            Failed::Refused(reason) => Self::Refused { reason },
            Failed::Abandoned => Self::BufferFailed(EngineError::Closed),
        }
    }
}
