//! A byte stream between a client and a server of one process, with faults: bytes arrive split and
//! coalesced, late, or not at all because the connection is cut in the middle of something.
//!
//! madsim's own sockets have no resets and no partial writes, so NBD goes through these.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use madsim::time::sleep;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::journal::{self, Journal};
use crate::random::RandomStream;

/// Bytes under way in one direction before the sender has to wait.
const IN_FLIGHT_BYTES_MAX: usize = 128 << 10;

/// Longest time that a piece is under way.
const LATENCY_MAX: Duration = Duration::from_millis(30);

/// What a connection suffers.
#[derive(Debug, Clone, Copy, Default)]
pub struct WireFaults {
    /// Pieces, per thousand, that arrive in smaller ones.
    pub split: u64,
    /// After this many bytes both ways together nothing goes through any more.
    pub cut_after: Option<u64>,
}

/// One direction.
#[derive(Default)]
struct Direction {
    pieces: VecDeque<(Duration, Vec<u8>)>,
    bytes: usize,
    /// The sender says no more.
    ended: bool,
    /// The receiver is gone.
    receiver_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Direction {
    fn wake(&mut self) {
        let wakers = [self.reader.take(), self.writer.take()];
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

struct Wire {
    directions: [Direction; 2],
    faults: WireFaults,
    has_split: bool,
    cut: bool,
    random: RandomStream,
    journal: Journal,
    name: String,
}

/// One end of a connection; dropping it ends the connection.
pub struct End {
    wire: Arc<Mutex<Wire>>,
    /// It sends on this way, and receives on the other.
    side: usize,
    timer: Option<BoxFuture<'static, ()>>,
}

/// Makes a connection called `name`.
#[must_use]
pub fn connection(
    name: &str,
    faults: WireFaults,
    random: RandomStream,
    journal: &Journal,
) -> (End, End) {
    let wire = Arc::new(Mutex::new(Wire {
        directions: [Direction::default(), Direction::default()],
        faults,
        has_split: false,
        cut: false,
        random,
        journal: journal.clone(),
        name: name.to_owned(),
    }));
    let end = |side| End {
        wire: Arc::clone(&wire),
        side,
        timer: None,
    };
    (end(0), end(1))
}

impl End {
    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().expect("nothing panics under this lock")
    }
}

impl Wire {
    fn spend(&mut self, bytes: usize) {
        let Some(left) = &mut self.faults.cut_after else {
            return;
        };
        *left = left.saturating_sub(bytes as u64);
        if *left == 0 {
            self.faults.cut_after = None;
            self.cut = true;
            self.journal.fault(&self.name, "nbd: cut in mid-request");
            self.directions.iter_mut().for_each(Direction::wake);
        }
    }

    fn piece(&mut self, most: usize) -> usize {
        if most > 1 && self.random.chance(self.faults.split) {
            if !std::mem::replace(&mut self.has_split, true) {
                self.journal.fault(&self.name, "nbd: split and coalesced");
            }
            let part = self.random.within(1..most as u64);
            return usize::try_from(part).expect("a part of what fits memory");
        }
        most
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let side = self.side;
        let mut wire = self.wire();
        wire.directions[side].ended = true;
        wire.directions[1 - side].receiver_gone = true;
        wire.directions.iter_mut().for_each(Direction::wake);
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if let Some(timer) = &mut this.timer {
                if timer.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                this.timer = None;
            }
            let side = 1 - this.side;
            let mut wire = this.wire();
            if wire.cut {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            let now = journal::now();
            let Some((ready_at, piece)) = wire.directions[side].pieces.front() else {
                if wire.directions[side].ended {
                    return Poll::Ready(Ok(()));
                }
                wire.directions[side].reader = Some(context.waker().clone());
                return Poll::Pending;
            };
            if *ready_at > now {
                let wait = *ready_at - now;
                drop(wire);
                this.timer = Some(Box::pin(sleep(wait)));
                continue;
            }
            let most = piece.len().min(into.remaining());
            let taken = wire.piece(most);
            let direction = &mut wire.directions[side];
            let (_, piece) = direction.pieces.front_mut().expect("it was there just now");
            into.put_slice(&piece[..taken]);
            piece.drain(..taken);
            if piece.is_empty() {
                direction.pieces.pop_front();
            }
            direction.bytes -= taken;
            if let Some(writer) = direction.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let side = self.side;
        let mut wire = self.wire();
        if wire.cut || wire.directions[side].receiver_gone {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let left = IN_FLIGHT_BYTES_MAX.saturating_sub(wire.directions[side].bytes);
        if left == 0 {
            wire.directions[side].writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let taken = wire.piece(bytes.len().min(left));
        let latency = wire.random.duration(Duration::from_micros(10), LATENCY_MAX);
        let direction = &mut wire.directions[side];
        let earlier = direction
            .pieces
            .back()
            .map_or(Duration::ZERO, |(at, _)| *at);
        let ready_at = earlier.max(journal::now() + latency);
        direction
            .pieces
            .push_back((ready_at, bytes[..taken].to_vec()));
        direction.bytes += taken;
        if let Some(reader) = direction.reader.take() {
            reader.wake();
        }
        wire.spend(taken);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let side = self.side;
        let mut wire = self.wire();
        wire.directions[side].ended = true;
        wire.directions[side].wake();
        Poll::Ready(Ok(()))
    }
}
