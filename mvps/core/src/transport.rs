//! One byte stream, polled: buffered input, payloads straight into their place, queued output.
//!
//! Job: move bytes between a stream and the sans-IO code of [`crate::nbd`] with as few system
//! calls and copies as possible, for the server's sessions and the client alike.
//!
//! Invariants:
//! - A header and a payload that arrive together cost one read; what goes out together, one write.
//! - A payload ends in an allocation of exactly its size. Only what was read along with its header
//!   is copied there; while payloads are large, little is read along with headers.
//! - Input is buffered up to [`INPUT_ROOM_MAX_BYTES`], whatever the peer sends.
//!
//! Must never: interpret a byte, or wait for anything but the stream.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::nbd::Outgoing;

/// Room for input at first, and while payloads are large: some headers, and not much of a payload
/// that would have to be copied.
const INPUT_ROOM_MIN_BYTES: usize = 8 * 1024;

/// Most room for input: 32 writes of 4 KiB in one read.
const INPUT_ROOM_MAX_BYTES: usize = 144 * 1024;

/// A payload from here on is worth an extra read to be spared the copy.
const LARGE_PAYLOAD_BYTES: usize = 64 * 1024;

/// Buffers handed to the system in one vectored write: beyond this many the call itself, not the
/// number of calls, is the cost.
const SLICES_MAX: usize = 64;

/// Where the next bytes of the stream belong.
#[derive(Debug)]
enum Due {
    Input,
    Payload { buffer: BytesMut, bytes: usize },
    Nowhere { bytes: u64 },
}

/// A stream with its buffers.
#[derive(Debug)]
pub(crate) struct Transport<S> {
    stream: S,
    input: BytesMut,
    input_room_bytes: usize,
    due: Due,
    output: Outgoing,
    needs_flush: bool,
    received_bytes: u64,
    sent_bytes: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Transport<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            input_room_bytes: INPUT_ROOM_MIN_BYTES,
            due: Due::Input,
            output: Outgoing::default(),
            needs_flush: false,
            received_bytes: 0,
            sent_bytes: 0,
        }
    }

    /// The stream alone; what is buffered is lost.
    pub(crate) fn into_stream(self) -> S {
        self.stream
    }

    /// Bytes received so far.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Bytes sent so far.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Whether part of a payload has not arrived yet.
    pub(crate) fn awaits_payload(&self) -> bool {
        match &self.due {
            Due::Input => false,
            Due::Payload { buffer, bytes } => buffer.len() < *bytes,
            Due::Nowhere { .. } => true,
        }
    }

    /// What is to be sent.
    pub(crate) fn output(&self) -> &Outgoing {
        &self.output
    }

    /// What is to be sent.
    pub(crate) fn output_mut(&mut self) -> &mut Outgoing {
        &mut self.output
    }

    /// Input and the end of the output at once, for negotiation.
    pub(crate) fn buffers_mut(&mut self) -> (&mut BytesMut, &mut BytesMut) {
        (&mut self.input, self.output.tail_mut())
    }

    /// What has arrived and belongs to no payload, left where it is.
    pub(crate) fn input(&self) -> &[u8] {
        &self.input
    }

    /// Forgets the next `bytes` bytes, which are there.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.input.advance(bytes);
    }

    /// Declares the next `bytes` bytes a payload; [`Self::take_payload`] yields it.
    pub(crate) fn expect_payload(&mut self, bytes: usize) {
        assert!(matches!(self.due, Due::Input), "one payload at a time");
        let mut buffer = BytesMut::with_capacity(bytes);
        let present = self.input.len().min(bytes);
        buffer.extend_from_slice(&self.input[..present]);
        self.input.advance(present);
        if bytes >= LARGE_PAYLOAD_BYTES {
            self.input_room_bytes = INPUT_ROOM_MIN_BYTES;
        }
        self.due = Due::Payload { buffer, bytes };
    }

    /// The payload that was expected, once all of it is there.
    pub(crate) fn take_payload(&mut self) -> Option<Bytes> {
        match &mut self.due {
            Due::Payload { buffer, bytes } if buffer.len() == *bytes => {
                let payload = std::mem::take(buffer).freeze();
                self.due = Due::Input;
                Some(payload)
            }
            _ => None,
        }
    }

    /// Declares the next `bytes` bytes worthless; [`Self::is_skipping`] says when they are gone.
    pub(crate) fn skip(&mut self, bytes: u64) {
        assert!(matches!(self.due, Due::Input), "one payload at a time");
        self.due = Due::Nowhere { bytes };
        self.drop_worthless();
    }

    /// Whether worthless bytes are still due.
    pub(crate) fn is_skipping(&self) -> bool {
        matches!(self.due, Due::Nowhere { .. })
    }

    fn drop_worthless(&mut self) {
        if let Due::Nowhere { bytes } = &mut self.due {
            let present = (self.input.len() as u64).min(*bytes);
            *bytes -= present;
            let present = usize::try_from(present).expect("no more than is buffered");
            self.input.advance(present);
            if *bytes == 0 {
                self.due = Due::Input;
            }
        }
    }

    /// Whether there is room to receive into.
    fn has_room(&self) -> bool {
        match &self.due {
            Due::Input => self.input.len() < INPUT_ROOM_MAX_BYTES,
            Due::Payload { buffer, bytes } => buffer.len() < *bytes,
            Due::Nowhere { .. } => true,
        }
    }

    /// Receives some bytes; 0 at the end of the stream. Pending, and not woken, while there is no
    /// room.
    pub(crate) fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if !self.has_room() {
            return Poll::Pending;
        }
        if let Due::Payload { buffer, bytes } = &mut self.due {
            let missing = *bytes - buffer.len();
            let mut limited = buffer.limit(missing);
            let count = ready!(pin!(self.stream.read_buf(&mut limited)).poll(context))?;
            self.received_bytes += count as u64;
            return Poll::Ready(Ok(count));
        }
        // What is buffered is not parsed while requests wait for their turn; the room must not
        // shrink to nothing then, or the end of the stream would go unnoticed.
        let used = self.input.len();
        let room = self
            .input_room_bytes
            .max(used + 1024)
            .min(INPUT_ROOM_MAX_BYTES)
            - used;
        self.input.reserve(room);
        let mut limited = (&mut self.input).limit(room);
        let count = ready!(pin!(self.stream.read_buf(&mut limited)).poll(context))?;
        if count == room && self.input_room_bytes < INPUT_ROOM_MAX_BYTES {
            self.input_room_bytes = (self.input_room_bytes * 4).min(INPUT_ROOM_MAX_BYTES);
        }
        self.received_bytes += count as u64;
        self.drop_worthless();
        Poll::Ready(Ok(count))
    }

    /// Sends everything that is queued. Ready once it is on its way.
    pub(crate) fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let filled = self.output.fill(&mut slices);
            let stream = Pin::new(&mut self.stream);
            let count = match &slices[..filled] {
                [one] => ready!(stream.poll_write(context, one))?,
                several => ready!(stream.poll_write_vectored(context, several))?,
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(count);
            self.sent_bytes += count as u64;
            self.needs_flush = true;
        }
        if self.needs_flush {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends everything that is queued and says that nothing follows: over TLS, with a close_notify.
    pub(crate) async fn close(&mut self) -> io::Result<()> {
        self.send().await?;
        self.stream.shutdown().await
    }

    /// Receives some bytes; 0 at the end of the stream.
    pub(crate) async fn receive(&mut self) -> io::Result<usize> {
        poll_fn(|context| self.poll_receive(context)).await
    }

    /// Sends everything that is queued.
    pub(crate) async fn send(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_send(context)).await
    }
}
