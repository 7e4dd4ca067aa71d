//! The output queue: it gathers headers and passes payloads on without a copy.
//!
//! Invariant: bytes leave in the order in which they were added. The queue has no limit of its own:
//! its user asks [`Outgoing::len_bytes`] before adding.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// A payload of at most this is copied next to its header: to hand one more buffer to the system
/// costs more than the copy.
const GATHER_LIMIT_BYTES: usize = 1024;

/// What holes are sent from, again and again.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// An output queue for vectored writes.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// What goes first.
    queue: VecDeque<Bytes>,
    /// What goes after everything in `queue`.
    tail: BytesMut,
    queue_bytes: usize,
    /// How many of the first in `queue` keep nothing but themselves in memory.
    owned: usize,
}

impl Outgoing {
    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.tail.is_empty()
    }

    /// Bytes that wait.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.queue_bytes + self.tail.len()
    }

    /// Adds a header, by copying it.
    pub fn push_header(&mut self, header: &[u8]) {
        self.tail.extend_from_slice(header);
    }

    /// Adds a payload, without a copy unless it is small.
    pub fn push_payload(&mut self, payload: Bytes) {
        if payload.len() <= GATHER_LIMIT_BYTES {
            self.tail.extend_from_slice(&payload);
            return;
        }
        if !self.tail.is_empty() {
            let headers = self.tail.split().freeze();
            self.queue_bytes += headers.len();
            self.queue.push_back(headers);
        }
        self.queue_bytes += payload.len();
        self.queue.push_back(payload);
    }

    /// Adds zeroes, without making them.
    pub fn push_zeroes(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let chunk = bytes.min(ZEROES.len());
            self.push_payload(Bytes::from_static(&ZEROES[..chunk]));
            bytes -= chunk;
        }
    }

    /// Copies what waits, so that it keeps no more in memory than [`Self::len_bytes`]: a payload
    /// may be a small slice of a large buffer.
    pub fn own(&mut self) {
        for bytes in self.queue.iter_mut().skip(self.owned) {
            if bytes.as_ptr() != ZEROES.as_ptr() {
                *bytes = Bytes::copy_from_slice(bytes);
            }
        }
        self.owned = self.queue.len();
    }

    /// The tail, for an encoder that appends to a buffer (negotiation).
    pub fn tail_mut(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Fills `slices` with what goes next; returns how many it filled.
    pub fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = (!self.tail.is_empty()).then_some(&self.tail[..]);
        let pieces = self.queue.iter().map(|bytes| &bytes[..]).chain(tail);
        let mut filled = 0;
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    /// Forgets the first `count` bytes: they were written.
    ///
    /// # Panics
    /// If fewer wait.
    pub fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.queue.front_mut() {
            if count < first.len() {
                first.advance(count);
                self.queue_bytes -= count;
                return;
            }
            count -= first.len();
            self.queue_bytes -= first.len();
            self.queue.pop_front();
            self.owned = self.owned.saturating_sub(1);
        }
        if count == self.tail.len() {
            // Keeps the room for the next headers.
            self.tail.clear();
        } else {
            self.tail.advance(count);
        }
    }
}
