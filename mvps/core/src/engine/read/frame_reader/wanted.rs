//! Which frames a read wants, and what they are decoded with.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::encryption::ImageKeys;
use crate::engine::read::map::{Map, MapRun, PageLocation};
use crate::format::frame::Frame;
use crate::format::location::FrameLocation;
use crate::format::manifest::ByteSpan;
use crate::format::object_name::ObjectName;
use crate::ids::{PageNumber, PageSize, PieceKey};
use crate::object_reads::{Piece, ReadError};

/// A frame to be fetched.
#[derive(Debug, Clone)]
pub(super) struct WantedFrame {
    pub(super) object: Arc<ObjectName>,
    pub(super) frame: FrameLocation,
    /// The first page that it is fetched for.
    pub(super) page: PageNumber,
}

impl WantedFrame {
    pub(super) fn key(&self) -> PieceKey {
        self.object.piece_key(u64::from(self.frame.offset))
    }

    pub(super) fn piece(&self) -> Piece<'_> {
        Piece {
            object: &self.object,
            span: ByteSpan {
                offset: u64::from(self.frame.offset),
                bytes: self.frame.stored_bytes,
            },
            page: Some(self.page),
        }
    }
}

pub(super) type FetchedFrame = Result<Arc<Frame>, ReadError>;

/// What an image's frames are decoded with, and its requests for them.
#[derive(Clone)]
pub(super) struct ImageFrames {
    pub(super) page_size: PageSize,
    pub(super) keys: Arc<ImageKeys>,
    pub(super) spans: Arc<Semaphore>,
}

pub(super) fn wanted(
    map: &Map,
    run: &MapRun,
    location: &PageLocation,
) -> Result<WantedFrame, ReadError> {
    let object = map.segment_name(location.frame.segment);
    let object = object.ok_or_else(|| unknown_segment(run, location))?;
    Ok(WantedFrame {
        object: Arc::clone(object),
        frame: location.frame,
        page: run.first,
    })
}

/// The map points to a segment that the manifest does not list.
pub(super) fn unknown_segment(run: &MapRun, location: &PageLocation) -> ReadError {
    let (page, segment) = (run.first.0, location.frame.segment.0);
    tracing::error!(
        page,
        segment,
        "the map points to a segment that is not in the manifest"
    );
    ReadError::Corrupt {
        object: format!("segment {segment}"),
        offset: u64::from(location.frame.offset),
        page: Some(run.first),
        reason: "the map points to a segment that is not in the manifest".to_owned(),
    }
}
