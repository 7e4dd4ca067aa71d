//! When to read ahead, and how far.
//!
//! Job: recognise readers that go through the image in order, a few of them at the same time and
//! each with several requests in flight, and say which pages to fetch before they are asked for.
//! The window grows with what a reader has read in order, so that random reads cost nothing and a
//! long sequential read soon has a full window under way. Readers that keep the store busy with
//! requests of their own get no help: fetching what they are about to ask for only costs them.
//!
//! Must never: read anything. It decides; `frame_reader` fetches.

use std::ops::Range;

use crate::ids::{PageNumber, PageSize};

/// Sequential readers followed at the same time; the one that was quiet for longest is forgotten
/// first. Eight cover a filesystem that reads a few files at once.
const STREAMS_MAX: usize = 8;

/// A read belongs to a stream if it begins at most this many bytes before or after the stream's
/// end: requests of one reader arrive out of order.
const REORDER_MAX_BYTES: u64 = 1 << 20;

/// A stream is believed after this many reads in order; before that nothing is fetched ahead.
const BELIEVED_AFTER_READS: u32 = 3;

/// Farthest that is fetched ahead of a stream: enough to cover a store that takes 40 ms to answer
/// at 100 MB/s.
pub const WINDOW_MAX_BYTES: u64 = 4 << 20;

#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// The page after the last one read.
    end: u64,
    /// The page after the last one that was fetched or is being fetched ahead.
    fetched_to: u64,
    /// Pages read in order so far.
    length: u64,
    reads: u32,
    /// When it was last read, counted in reads.
    last_read: u64,
}

/// The streams of one image.
#[derive(Debug)]
pub struct ReadAhead {
    reorder_max: u64,
    window_max: u64,
    reads: u64,
    streams: [Stream; STREAMS_MAX],
}

impl ReadAhead {
    /// No stream yet.
    #[must_use]
    pub fn new(page_size: PageSize) -> Self {
        Self {
            reorder_max: REORDER_MAX_BYTES >> page_size.bits(),
            window_max: WINDOW_MAX_BYTES >> page_size.bits(),
            reads: 0,
            streams: [Stream::default(); STREAMS_MAX],
        }
    }

    /// Takes note of a read of `pages`, and returns the pages to be fetched ahead of it, if any.
    /// `waiting_pages` are those that other reads are waiting for at this moment.
    pub fn observe(
        &mut self,
        pages: Range<PageNumber>,
        waiting_pages: u64,
    ) -> Option<Range<PageNumber>> {
        let (first, end) = (pages.start.0, pages.end.0);
        if first >= end {
            return None;
        }
        self.reads += 1;
        let reads = self.reads;
        let reorder_max = self.reorder_max;
        let belongs =
            |stream: &&mut Stream| stream.reads > 0 && first.abs_diff(stream.end) <= reorder_max;
        let Some(stream) = self.streams.iter_mut().find(belongs) else {
            let quietest = self
                .streams
                .iter_mut()
                .min_by_key(|stream| stream.last_read);
            *quietest.expect("there are streams") = Stream {
                end,
                fetched_to: end,
                length: end - first,
                reads: 1,
                last_read: reads,
            };
            return None;
        };
        stream.last_read = reads;
        if end <= stream.end {
            return None;
        }
        stream.length += end - first.max(stream.end);
        stream.end = end;
        stream.reads = stream.reads.saturating_add(1);
        stream.fetched_to = stream.fetched_to.max(end);
        if stream.reads < BELIEVED_AFTER_READS || waiting_pages >= self.window_max / 2 {
            return None;
        }
        // Wait until half the window is used up, so that what is fetched is worth a request.
        let window = stream.length.min(self.window_max);
        if stream.fetched_to - end > window / 2 {
            return None;
        }
        let fetch_from = stream.fetched_to;
        stream.fetched_to = end.saturating_add(window).max(fetch_from);
        (stream.fetched_to > fetch_from)
            .then_some(PageNumber(fetch_from)..PageNumber(stream.fetched_to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(reads: &[(u64, u64)], expected: &[Option<(u64, u64)>]) {
        let page_size = PageSize::from_bits(12).unwrap();
        let mut ahead = ReadAhead::new(page_size);
        let observe = |&(first, count): &(u64, u64)| {
            let fetch = ahead.observe(PageNumber(first)..PageNumber(first + count), 0);
            fetch.map(|pages| (pages.start.0, pages.end.0))
        };
        let got: Vec<_> = reads.iter().map(observe).collect();
        assert_eq!(got, expected, "{reads:?}");
    }

    #[test]
    fn random_reads_fetch_nothing_ahead() {
        let reads = [(0, 1), (90_000, 1), (5_000, 1), (40_000, 1), (1_000, 1)];
        check(&reads, &[None; 5]);
    }

    #[test]
    fn the_window_grows_with_the_stream() {
        check(
            &[(0, 8), (8, 8), (16, 8), (24, 8), (32, 8), (40, 8)],
            &[
                None,
                None,
                Some((24, 48)),
                Some((48, 64)),
                None,
                Some((64, 96)),
            ],
        );
    }

    #[test]
    fn requests_out_of_order_are_one_stream() {
        check(
            &[(0, 8), (16, 8), (8, 8), (24, 8), (32, 8)],
            &[None, None, None, Some((32, 56)), Some((56, 72))],
        );
    }

    #[test]
    fn two_streams_do_not_disturb_each_other() {
        check(
            &[
                (0, 8),
                (50_000, 8),
                (8, 8),
                (50_008, 8),
                (16, 8),
                (50_016, 8),
            ],
            &[
                None,
                None,
                None,
                None,
                Some((24, 48)),
                Some((50_024, 50_048)),
            ],
        );
    }

    #[test]
    fn the_window_is_bounded() {
        let page_size = PageSize::from_bits(12).unwrap();
        let window_max = WINDOW_MAX_BYTES >> 12;
        let mut ahead = ReadAhead::new(page_size);
        let mut fetched_to = 0;
        for read in 0..1_000_u64 {
            let end = (read + 1) * 256;
            if let Some(fetch) = ahead.observe(PageNumber(read * 256)..PageNumber(end), 0) {
                assert!(fetch.start.0 >= end.min(fetched_to).max(fetched_to));
                fetched_to = fetch.end.0;
                assert!(fetched_to - end <= window_max);
            }
        }
        assert!(fetched_to > 999 * 256, "a long stream is always ahead");
    }

    #[test]
    fn a_reader_with_half_a_window_of_requests_under_way_gets_no_help() {
        let page_size = PageSize::from_bits(12).unwrap();
        let half = (WINDOW_MAX_BYTES >> 12) / 2;
        let mut ahead = ReadAhead::new(page_size);
        let mut observe = |read: u64, waiting_pages| {
            ahead.observe(
                PageNumber(read * 8)..PageNumber(read * 8 + 8),
                waiting_pages,
            )
        };
        let busy = (0..6).map(|read| observe(read, half)).collect::<Vec<_>>();
        assert_eq!(busy, [const { None }; 6]);
        let ahead = observe(6, half - 1).expect("the requests are done");
        assert_eq!(
            ahead.start,
            PageNumber(56),
            "what it read itself is not fetched again"
        );
    }

    #[test]
    fn the_end_of_the_address_space_is_no_problem() {
        let far = u64::MAX - 24;
        check(
            &[(far, 8), (far + 8, 8), (far + 16, 8)],
            &[None, None, None],
        );
    }
}
