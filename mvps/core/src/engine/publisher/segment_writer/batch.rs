//! A batch of pages on its way to becoming frames: pure work for a computation.

use bytes::Bytes;

use crate::encryption::SegmentKey;
use crate::format::codec::ObjectSeed;
use crate::format::frame::{FrameEncoder, frame_pages};
use crate::format::segment::{FrameEntry, PageSpan};
use crate::ids::{PageNumber, PageSize};

/// Pages to be encoded together, ascending.
#[derive(Debug, Default)]
pub(super) struct Batch {
    runs: Vec<(PageNumber, Bytes)>,
    content_bytes: usize,
}

/// A batch as it goes into the segment.
pub(super) struct EncodedBatch {
    /// The frames, one after the other.
    pub(super) bytes: Bytes,
    /// Where they are, counted from the beginning of `bytes`.
    pub(super) frames: Vec<FrameEntry>,
    /// Pages that turned out to be zeroes, ascending.
    pub(super) zero_pages: Vec<PageSpan>,
    /// For the next batch.
    pub(super) encoder: FrameEncoder,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(super) fn content_bytes(&self) -> usize {
        self.content_bytes
    }

    pub(super) fn push(&mut self, first: PageNumber, content: Bytes) {
        self.content_bytes += content.len();
        self.runs.push((first, content));
    }

    pub(super) fn encode(
        self,
        mut encoder: FrameEncoder,
        seed: ObjectSeed,
        page_size: PageSize,
        key: Option<&SegmentKey>,
    ) -> EncodedBatch {
        let mut bytes = Vec::with_capacity(self.content_bytes + self.content_bytes / 64);
        let mut frames = Vec::new();
        let mut zero_pages = Vec::new();
        let mut frame: Vec<(PageNumber, &[u8])> = Vec::with_capacity(frame_pages(page_size));
        let mut close = |frame: &mut Vec<(PageNumber, &[u8])>| {
            if !frame.is_empty() {
                let offset = u32::try_from(bytes.len()).expect("a batch is short");
                let stored_bytes = encoder.encode(seed, page_size, key, frame, &mut bytes);
                let runs = frame.iter().map(|(page, _)| single(*page)).collect();
                frames.push(FrameEntry {
                    offset,
                    stored_bytes,
                    runs: joined(runs),
                });
                frame.clear();
            }
        };
        for (first, content) in &self.runs {
            for (ahead, data) in (0..).zip(content.chunks_exact(page_size.bytes())) {
                let page = PageNumber(first.0 + ahead);
                if is_zero(data) {
                    zero_pages.push(single(page));
                    continue;
                }
                frame.push((page, data));
                if frame.len() == frame_pages(page_size) {
                    close(&mut frame);
                }
            }
        }
        close(&mut frame);
        EncodedBatch {
            bytes: Bytes::from(bytes),
            frames,
            zero_pages: joined(zero_pages),
            encoder,
        }
    }
}

fn single(page: PageNumber) -> PageSpan {
    PageSpan {
        first: page,
        pages: 1,
    }
}

/// The same pages in ascending order and as few spans as possible. The spans are disjoint.
pub(super) fn joined(mut spans: Vec<PageSpan>) -> Vec<PageSpan> {
    spans.sort_by_key(|span| span.first);
    spans.dedup_by(|next, last| {
        let follows = last.end() == next.first;
        if follows {
            last.pages += next.pages;
        }
        follows
    });
    spans
}

/// Whether there are only zeroes.
fn is_zero(data: &[u8]) -> bool {
    const STEP: usize = 128;
    let (chunks, rest) = data.as_chunks::<STEP>();
    chunks.iter().all(|chunk| chunk == &[0; STEP]) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_joined_where_they_touch() {
        let span = |(first, pages)| PageSpan {
            first: PageNumber(first),
            pages,
        };
        let check = |given: &[(u64, u64)], expected: &[(u64, u64)]| {
            let expected: Vec<_> = expected.iter().copied().map(span).collect();
            assert_eq!(joined(given.iter().copied().map(span).collect()), expected);
        };
        check(&[], &[]);
        check(&[(1, 1), (2, 1), (4, 1)], &[(1, 2), (4, 1)]);
        check(&[(9, 3), (0, 4), (4, 5)], &[(0, 12)]);
    }

    #[test]
    fn zeroes_are_recognised() {
        let mut data = vec![0; 4096];
        assert!(is_zero(&data));
        for position in [0, 127, 128, 4095] {
            data[position] = 1;
            assert!(!is_zero(&data), "a one at {position}");
            data[position] = 0;
        }
    }
}
