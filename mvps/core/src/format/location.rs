//! Where a frame is, as segments' indexes and the map name it.

use super::manifest::SegmentId;

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameLocation {
    /// Its segment.
    pub segment: SegmentId,
    /// Offset in the segment.
    pub offset: u32,
    /// Length of the whole frame; at most [`super::frame::FRAME_STORED_MAX_BYTES`].
    pub stored_bytes: u32,
}
