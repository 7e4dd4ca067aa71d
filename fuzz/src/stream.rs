//! A byte stream whose other end is written down in advance: what the peer sends, cut into pieces,
//! then the end; what it receives is kept.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The other end of the stream, as bytes in pieces.
pub struct Script {
    incoming: Vec<u8>,
    at: usize,
    /// Lengths of pieces, in turn.
    pieces: Vec<usize>,
    piece: usize,
    received: Arc<Mutex<Vec<u8>>>,
}

impl Script {
    /// A peer that sends `incoming`, and where to find what it received.
    pub fn new(incoming: Vec<u8>, pieces: &[u8]) -> (Self, Arc<Mutex<Vec<u8>>>) {
        let received = Arc::new(Mutex::new(Vec::new()));
        let script = Self {
            incoming,
            at: 0,
            pieces: pieces.iter().map(|piece| usize::from(*piece) + 1).collect(),
            piece: 0,
            received: Arc::clone(&received),
        };
        (script, received)
    }
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let piece = match self.pieces.len() {
            0 => usize::MAX,
            count => self.pieces[self.piece % count],
        };
        self.piece += 1;
        // Every other time there is nothing yet.
        if piece != usize::MAX && self.piece.is_multiple_of(2) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let rest = &self.incoming[self.at..];
        let count = rest.len().min(piece).min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.received
            .lock()
            .expect("one thread")
            .extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
