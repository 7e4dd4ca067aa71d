//! Frames that stay in the pieces in which they arrived.
//!
//! Job: give every frame of a request its bytes. A client of a store delivers a body in pieces, of
//! some 400 KiB from a fast one. A frame that lies within one piece becomes a slice of it, because
//! copying is dear: it was a tenth of a cold sequential read. One that does not is put together.
//!
//! A slice keeps its whole piece in memory, also when the cache has dropped the frames beside it.
//! [`Retention`] counts the bytes of pieces that no frame uses. While they are too many it copies, and
//! names the frames that have been slices for longest, for the cache to keep copies instead.
//!
//! Invariants: what pieces take beyond the frames in them is at most the limit, but for what is
//! arriving or on its way to a client; it returns to nothing when all frames are gone, in whatever
//! order they go.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::ids::PieceKey;

/// Smaller pieces are copied: the buffer behind a piece may be larger than the piece, and of a
/// small one most would be that.
const RETAINED_MIN_BYTES: usize = 128 << 10;

/// Requests that are remembered because frames of theirs may be slices: a cache of 1 GiB is full of
/// as many, and what outlives them is worth a copy.
const REMEMBERED_MAX: usize = 1024;

/// Counts what retained pieces keep in memory, and decides when frames are copied instead.
pub(super) struct Retention {
    /// Bytes of retained pieces that no frame uses. It never wraps for good: a frame that is dropped
    /// returns its bytes before its piece takes all of them away.
    unused_bytes: AtomicU64,
    unused_max_bytes: u64,
    /// Cached frames that may be slices, by request, the oldest first.
    remembered: Mutex<VecDeque<Vec<PieceKey>>>,
}

/// What [`Retention::take`] found.
pub(super) struct Taken {
    /// The bytes at each place.
    pub(super) frames: Vec<Bytes>,
    /// Whether some of them may be slices.
    pub(super) is_retained: bool,
}

/// A piece, as long as a frame is a slice of it.
struct RetainedPiece {
    piece: Bytes,
    retention: Arc<Retention>,
}

/// A frame's slice of a retained piece.
struct Slice {
    bytes: Bytes,
    retention: Arc<Retention>,
}

impl AsRef<[u8]> for RetainedPiece {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for RetainedPiece {
    fn drop(&mut self) {
        let bytes = self.piece.len() as u64;
        self.retention
            .unused_bytes
            .fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        let bytes = self.bytes.len() as u64;
        self.retention
            .unused_bytes
            .fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Retention {
    /// Pieces may take this many bytes more than the frames in them.
    pub(super) fn new(unused_max_bytes: u64) -> Self {
        Self {
            unused_bytes: AtomicU64::new(0),
            unused_max_bytes,
            remembered: Mutex::default(),
        }
    }

    /// Takes note that the cache has frames that may be slices.
    pub(super) fn remember(&self, frames: Vec<PieceKey>) {
        self.remembered().push_back(frames);
    }

    /// Frames that the cache should keep copies of, if it still has them; ask until there are none.
    pub(super) fn overdue(&self) -> Option<Vec<PieceKey>> {
        let mut remembered = self.remembered();
        let is_wasteful = self.unused_bytes.load(Ordering::Relaxed) > self.unused_max_bytes;
        (is_wasteful || remembered.len() > REMEMBERED_MAX)
            .then(|| remembered.pop_front())
            .flatten()
    }

    fn remembered(&self) -> MutexGuard<'_, VecDeque<Vec<PieceKey>>> {
        // Nothing is left half done by a panic.
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes at each of `places`, which lie within `pieces` put together.
    pub(super) fn take(self: &Arc<Self>, pieces: Vec<Bytes>, places: &[Range<usize>]) -> Taken {
        let pieces: Vec<(Bytes, bool)> =
            pieces.into_iter().map(|piece| self.retain(piece)).collect();
        let bytes_at = |place| match within_one(&pieces, place) {
            Some((piece, true, at)) => self.slice(piece.slice(at)),
            Some((piece, false, at)) => Bytes::copy_from_slice(&piece[at]),
            None => gathered(&pieces, place),
        };
        Taken {
            frames: places.iter().map(bytes_at).collect(),
            is_retained: pieces.iter().any(|(_, is_retained)| *is_retained),
        }
    }

    /// The piece, counted from now on if slices of it may be kept.
    fn retain(self: &Arc<Self>, piece: Bytes) -> (Bytes, bool) {
        let unused = self.unused_bytes.load(Ordering::Relaxed);
        if piece.len() < RETAINED_MIN_BYTES || unused > self.unused_max_bytes {
            return (piece, false);
        }
        let bytes = piece.len() as u64;
        self.unused_bytes.fetch_add(bytes, Ordering::Relaxed);
        let retention = Arc::clone(self);
        (Bytes::from_owner(RetainedPiece { piece, retention }), true)
    }

    #[cfg(test)]
    pub(super) fn unused_bytes(&self) -> u64 {
        self.unused_bytes.load(Ordering::Relaxed)
    }

    fn slice(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        let used = bytes.len() as u64;
        self.unused_bytes.fetch_sub(used, Ordering::Relaxed);
        let retention = Arc::clone(self);
        Bytes::from_owner(Slice { bytes, retention })
    }
}

/// The piece that holds all of `place`, whether it is retained, and where in it.
fn within_one<'a>(
    pieces: &'a [(Bytes, bool)],
    place: &Range<usize>,
) -> Option<(&'a Bytes, bool, Range<usize>)> {
    let mut start = 0;
    for (piece, is_retained) in pieces {
        let end = start + piece.len();
        if start <= place.start && place.end <= end {
            return Some((piece, *is_retained, place.start - start..place.end - start));
        }
        start = end;
    }
    None
}

/// Bytes `place` of the pieces put together.
fn gathered(pieces: &[(Bytes, bool)], place: &Range<usize>) -> Bytes {
    let mut own = BytesMut::with_capacity(place.len());
    let mut start = 0;
    for (piece, _) in pieces {
        let from = place.start.clamp(start, start + piece.len()) - start;
        let to = place.end.clamp(start, start + piece.len()) - start;
        own.extend_from_slice(&piece[from..to]);
        start += piece.len();
    }
    own.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: usize = 1 << 10;

    fn bytes(start: usize, end: usize) -> Vec<u8> {
        (start..end).map(|at| (at % 251) as u8).collect()
    }

    /// Pieces that end at `ends`, of one body.
    fn pieces(ends: &[usize]) -> Vec<Bytes> {
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let cut = |(start, end): (usize, &usize)| Bytes::from(bytes(start, *end));
        starts.zip(ends).map(cut).collect()
    }

    fn unused(retention: &Retention) -> u64 {
        retention.unused_bytes()
    }

    #[test]
    fn any_place_is_found_in_any_pieces() {
        for cut in 0..=40 {
            for other in cut..=40 {
                let retention = Arc::new(Retention::new(0));
                let places = [0..40, 0..1, 39..40, 7..23, 20..20];
                let taken = retention.take(pieces(&[cut, other, 40]), &places).frames;
                for (taken, place) in taken.iter().zip(&places) {
                    assert_eq!(taken, &bytes(place.start, place.end));
                }
            }
        }
    }

    #[test]
    fn a_frame_within_a_piece_is_not_copied() {
        let retention = Arc::new(Retention::new(1 << 20));
        let pieces = pieces(&[400 * KIB]);
        let there = pieces[0].as_ptr();
        let taken = retention
            .take(pieces, &[0..64 * KIB, 64 * KIB..128 * KIB])
            .frames;
        assert_eq!(taken[0].as_ptr(), there);
        assert_eq!(unused(&retention), (400 - 128) * 1024);
        drop(taken);
        assert_eq!(unused(&retention), 0);
    }

    #[test]
    fn small_pieces_are_copied() {
        let retention = Arc::new(Retention::new(1 << 20));
        let taken = retention
            .take(pieces(&[100 * KIB]), &[0..32 * KIB, 32 * KIB..64 * KIB])
            .frames;
        assert_eq!((taken[0].len(), unused(&retention)), (32 * KIB, 0));
    }

    /// A cache that keeps one frame of each piece and drops the others.
    #[test]
    fn what_is_kept_for_nothing_is_bounded() {
        let limit = 2 << 20;
        let retention = Arc::new(Retention::new(limit));
        let mut kept = Vec::new();
        for _ in 0..100 {
            let places: Vec<_> = (0..6)
                .map(|frame| frame * 64 * KIB..(frame + 1) * 64 * KIB)
                .collect();
            let mut taken = retention.take(pieces(&[400 * KIB]), &places).frames;
            kept.push(taken.swap_remove(0));
            drop(taken);
            assert!(
                unused(&retention) <= limit + 400 * 1024,
                "{}",
                unused(&retention)
            );
        }
        assert!(
            unused(&retention) > limit,
            "pieces were retained up to the limit"
        );
        drop(kept);
        assert_eq!(unused(&retention), 0);
    }

    proptest! {
        #[test]
        fn the_count_returns_to_nothing_in_whatever_order_frames_go(
            cuts in prop::collection::vec(1_usize..1_000, 1..5),
            order in prop::collection::vec(any::<prop::sample::Index>(), 16),
        ) {
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut * KIB).collect();
            ends.push(1_000 * KIB);
            ends.sort_unstable();
            let retention = Arc::new(Retention::new(500 * 1024));
            let places: Vec<_> = (0..15).map(|frame| frame * 64 * KIB..(frame + 1) * 64 * KIB).collect();
            let mut taken = retention.take(pieces(&ends), &places).frames;
            for (taken, place) in taken.iter().zip(&places) {
                prop_assert_eq!(taken, &bytes(place.start, place.end));
            }
            for index in order {
                if !taken.is_empty() {
                    let at = index.index(taken.len());
                    drop(taken.swap_remove(at));
                }
                prop_assert!(unused(&retention) <= 1_000 * 1024);
            }
            drop(taken);
            prop_assert_eq!(unused(&retention), 0);
        }
    }
}
