//! Names of objects: where everything of an image is (protocol §1).

use crate::ids::{EpochNumber, ImageId, Incarnation, ObjectSequence};

/// What kind of data object a name belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A segment.
    Segment,
    /// A map object.
    Map,
}

/// The name of a segment or map object. Never written twice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The image it was written for.
    pub image: ImageId,
    /// That image's incarnation.
    pub incarnation: Incarnation,
    /// The epoch of its writer.
    pub epoch: EpochNumber,
    /// Its number within the epoch.
    pub sequence: ObjectSequence,
    /// Random.
    pub suffix: u64,
    /// What it is.
    pub kind: ObjectKind,
}
