//! Adjacent frames of one segment, fetched by one request.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::retention::Retention;
use super::wanted::{FetchedFrame, ImageFrames, WantedFrame};
use crate::engine::read::disk_pieces::DiskPieces;
use crate::engine::read::object_cache::ObjectCache;
use crate::env::{Spawner, SpawnerExt};
use crate::format::frame::{FRAME_MAX_BYTES, Frame, decode_frame};
use crate::format::manifest::ByteSpan;
use crate::ids::PieceKey;
use crate::object_reads::{ObjectReads, Piece, ReadError};

/// Most bytes of one request: long enough that a store's latency does not dominate, short enough
/// that several run side by side for one large read. A read of 1 MiB is one request, its frames'
/// headers included.
const SPAN_MAX_BYTES: u32 = (1 << 20) + (64 << 10);

/// Most frames of one request, however well they are compressed: 4 MiB of content.
const SPAN_MAX_FRAMES: usize = 64;

/// Adjacent frames of one segment, ascending; never empty.
pub(super) struct SpanRequest {
    frames: Vec<WantedFrame>,
}

/// Distributes frames over as few requests as adjacency and the limits allow.
pub(super) fn spans_of(mut wanted: Vec<&WantedFrame>) -> impl Iterator<Item = SpanRequest> {
    wanted.sort_by_key(|frame| (frame.frame.segment, frame.frame.offset, frame.page));
    wanted.dedup_by_key(|frame| frame.key());
    let mut spans: Vec<SpanRequest> = Vec::new();
    for frame in wanted {
        match spans.last_mut() {
            Some(span) if span.takes(frame) => span.frames.push(frame.clone()),
            _ => spans.push(SpanRequest {
                frames: vec![frame.clone()],
            }),
        }
    }
    spans.into_iter()
}

impl SpanRequest {
    pub(super) fn keys(&self) -> Vec<PieceKey> {
        self.frames.iter().map(WantedFrame::key).collect()
    }

    fn takes(&self, next: &WantedFrame) -> bool {
        let (first, last) = (&self.frames[0], &self.frames[self.frames.len() - 1]);
        let end = |frame: &WantedFrame| frame.frame.offset.checked_add(frame.frame.stored_bytes);
        let span_bytes = end(next).and_then(|end| end.checked_sub(first.frame.offset));
        next.object == last.object
            && end(last) == Some(next.frame.offset)
            && span_bytes.is_some_and(|bytes| bytes <= SPAN_MAX_BYTES)
            && self.frames.len() < SPAN_MAX_FRAMES
    }

    fn piece(&self) -> Piece<'_> {
        let (first, last) = (&self.frames[0], &self.frames[self.frames.len() - 1]);
        let end = last.frame.offset + last.frame.stored_bytes;
        Piece {
            span: ByteSpan {
                offset: u64::from(first.frame.offset),
                bytes: end - first.frame.offset,
            },
            ..first.piece()
        }
    }

    /// Whether nothing is compressed for sure: what is longer than any content is not. Checking and
    /// copying that takes less than handing it to another thread.
    fn is_raw(&self) -> bool {
        let is_raw = |frame: &WantedFrame| frame.frame.stored_bytes as usize > FRAME_MAX_BYTES;
        self.frames.iter().all(is_raw)
    }

    /// Fetches and decodes the frames, and puts them on the disk. Those that do not verify are fetched again one by one, so
    /// that one damaged frame takes no other with it.
    pub(super) async fn fetch(
        self,
        reads: &ObjectReads,
        spawner: &dyn Spawner,
        coding: &ImageFrames,
        retention: &Arc<Retention>,
        disk: &DiskPieces,
    ) -> FetchedFrames {
        if self.frames.len() == 1 {
            let frame = fetch_one(&self.frames[0], reads, coding, disk).await;
            return FetchedFrames::new(vec![(self.frames[0].key(), frame)]);
        }
        let whole = reads
            .read_body(self.piece(), |seed, body| Ok((seed, body.into_pieces())))
            .await;
        let (seed, pieces) = match whole {
            Ok(whole) => whole,
            Err(ReadError::Corrupt { .. }) => return self.fetch_each(reads, coding, disk).await,
            Err(error) => {
                let failed = |frame: &WantedFrame| (frame.key(), Err(error.clone()));
                return FetchedFrames::new(self.frames.iter().map(failed).collect());
            }
        };
        let start = self.frames[0].frame.offset;
        let places: Vec<Range<usize>> = self
            .frames
            .iter()
            .map(|frame| {
                let from = (frame.frame.offset - start) as usize;
                from..from + frame.frame.stored_bytes as usize
            })
            .collect();
        let key = self.frames[0].object.segment_key(&coding.keys);
        // What is sealed is opened first, which is work too.
        let at_once = key.is_none() && self.is_raw();
        let (page_size, retention) = (coding.page_size, Arc::clone(retention));
        let decode = move || {
            let taken = retention.take(pieces, &places);
            let decode = |bytes: &Bytes| decode_frame(seed, page_size, key.as_ref(), bytes);
            let frames: Vec<_> = taken.frames.iter().map(decode).collect();
            (frames, taken)
        };
        let (decoded, taken) = if at_once {
            decode()
        } else {
            spawner.run(decode).await
        };
        let mut fetched = Vec::with_capacity(self.frames.len());
        let stored = taken.frames.into_iter();
        for ((frame, decoded), stored) in self.frames.iter().zip(decoded).zip(stored) {
            let one = match decoded {
                Ok(decoded) => {
                    disk.put(frame.key(), stored);
                    Ok(Arc::new(decoded))
                }
                Err(_) => fetch_one(frame, reads, coding, disk).await,
            };
            fetched.push((frame.key(), one));
        }
        FetchedFrames {
            is_retained: taken.is_retained,
            ..FetchedFrames::new(fetched)
        }
    }

    /// The span cannot be had as a whole: perhaps one of its frames lies beyond the object's end.
    async fn fetch_each(
        &self,
        reads: &ObjectReads,
        coding: &ImageFrames,
        disk: &DiskPieces,
    ) -> FetchedFrames {
        let mut fetched = Vec::with_capacity(self.frames.len());
        for frame in &self.frames {
            let one = fetch_one(frame, reads, coding, disk).await;
            fetched.push((frame.key(), one));
        }
        FetchedFrames::new(fetched)
    }
}

async fn fetch_one(
    wanted: &WantedFrame,
    reads: &ObjectReads,
    coding: &ImageFrames,
    disk: &DiskPieces,
) -> FetchedFrame {
    let key = wanted.object.segment_key(&coding.keys);
    let decode = |seed, stored: Bytes| {
        let frame = decode_frame(seed, coding.page_size, key.as_ref(), &stored)?;
        Ok((frame, stored))
    };
    let (frame, stored) = reads.read(wanted.piece(), decode).await?;
    disk.put(wanted.key(), stored);
    Ok(Arc::new(frame))
}

/// What a request brought; cheap to clone.
#[derive(Clone)]
pub(super) struct FetchedFrames {
    frames: Arc<Vec<(PieceKey, FetchedFrame)>>,
    /// Whether frames may be slices of what arrived.
    is_retained: bool,
}

impl FetchedFrames {
    fn new(frames: Vec<(PieceKey, Result<Arc<Frame>, ReadError>)>) -> Self {
        Self {
            frames: Arc::new(frames),
            is_retained: false,
        }
    }

    pub(super) fn one(key: PieceKey, frame: Arc<Frame>) -> Self {
        Self::new(vec![(key, Ok(frame))])
    }

    /// How many frames.
    pub(super) fn len(&self) -> u64 {
        self.frames.len() as u64
    }

    /// The frame, if this request was for it.
    pub(super) fn frame(&self, key: &PieceKey) -> Option<FetchedFrame> {
        let found = self.frames.iter().find(|(have, _)| have == key);
        found.map(|(_, frame)| frame.clone())
    }

    /// Puts the frames into the cache; there, copies take the place of slices that cost too much.
    pub(super) fn keep(&self, cache: &ObjectCache<Frame>, retention: &Retention) {
        for (key, frame) in self.frames.iter() {
            if let Ok(frame) = frame {
                cache.insert(*key, Arc::clone(frame));
            }
        }
        if self.is_retained {
            retention.remember(self.frames.iter().map(|(key, _)| *key).collect());
        }
        while let Some(overdue) = retention.overdue() {
            for key in overdue {
                if let Some(slice) = cache.peek(&key) {
                    let own = Frame {
                        pages: slice.pages.clone(),
                        data: Bytes::copy_from_slice(&slice.data),
                    };
                    cache.insert(key, Arc::new(own));
                }
            }
        }
    }
}
