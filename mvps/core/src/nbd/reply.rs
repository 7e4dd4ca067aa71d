//! Replies, server side: simple replies, structured chunks, extended chunks.
//!
//! ```text
//! simple      0      4       8              16
//!             | magic | error |    cookie    |
//! structured  0      4       6      8              16         20
//!             | magic | flags | type |    cookie    |  length  |
//! extended    0      4       6      8              16             24             32
//!             | magic | flags | type |    cookie    |    offset    |    length    |
//! ```
//!
//! Invariants: a reply that has begun is complete, so replies never mix. A request without content
//! is answered with a simple reply wherever the protocol permits it, because that is the shortest.
//! Content goes out without a copy.

use super::context::ContextStatus;
use super::limits::ERROR_MESSAGE_MAX_BYTES;
use super::request::{Cookie, ReplyTo};
use super::wire::{EXTENDED_REPLY_MAGIC, Errno, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk};
use super::{Broken, Framing, Outgoing};
use crate::content::ContentPiece;

/// Length of a simple reply's header.
pub const SIMPLE_REPLY_BYTES: usize = 16;

/// Length of a structured chunk's header.
pub const STRUCTURED_CHUNK_BYTES: usize = 20;

/// Length of an extended chunk's header.
pub const EXTENDED_CHUNK_BYTES: usize = 32;

/// A simple reply. The payload of a read follows a success; the reply itself does not say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimpleReply {
    /// The request's.
    pub cookie: Cookie,
    /// How it went.
    pub result: Result<(), Errno>,
}

impl SimpleReply {
    /// The header.
    #[must_use]
    pub fn encode(&self) -> [u8; SIMPLE_REPLY_BYTES] {
        let code = match self.result {
            Ok(()) => 0,
            Err(errno) => errno.code(),
        };
        let mut header = [0; SIMPLE_REPLY_BYTES];
        header[0..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        header[4..8].copy_from_slice(&code.to_be_bytes());
        header[8..16].copy_from_slice(&self.cookie.0.to_be_bytes());
        header
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`Broken`] if this is no simple reply.
    pub fn decode(header: &[u8; SIMPLE_REPLY_BYTES]) -> Result<Self, Broken> {
        let [m0, m1, m2, m3, e0, e1, e2, e3, cookie @ ..] = *header;
        let magic = u32::from_be_bytes([m0, m1, m2, m3]);
        if magic != SIMPLE_REPLY_MAGIC {
            return Err(Broken::ReplyMagic { magic });
        }
        let result = match u32::from_be_bytes([e0, e1, e2, e3]) {
            0 => Ok(()),
            code => Err(Errno::from_code(code)),
        };
        Ok(Self {
            cookie: Cookie(u64::from_be_bytes(cookie)),
            result,
        })
    }
}

/// A failure, as the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// The errno.
    pub errno: Errno,
    /// For people; structured replies have room for it. Cut at [`ERROR_MESSAGE_MAX_BYTES`].
    pub message: &'static str,
    /// The byte of the image at which it happened, if that is known and within the request.
    pub offset: Option<u64>,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self {
            errno,
            message: "",
            offset: None,
        }
    }
}

impl Framing {
    /// Answers a request that has no content: it is done.
    pub fn push_done(self, to: ReplyTo, output: &mut Outgoing) {
        if self == Self::Extended || to.has_content && self == Self::Structured {
            self.push_chunk(to, chunk::DONE, chunk::NONE, 0, output);
        } else {
            push_simple(to, Ok(()), output);
        }
    }

    /// Answers that it failed.
    pub fn push_failure(self, to: ReplyTo, failure: Failure, output: &mut Outgoing) {
        if self == Self::Simple || self == Self::Structured && !to.has_content {
            push_simple(to, Err(failure.errno), output);
            return;
        }
        let message = failure.message;
        let message = &message[..message.floor_char_boundary(ERROR_MESSAGE_MAX_BYTES)];
        let (kind, offset_bytes) = match failure.offset {
            None => (chunk::ERROR, 0),
            Some(_) => (chunk::ERROR_OFFSET, 8),
        };
        let length = 6 + message.len() + offset_bytes;
        self.push_chunk(to, chunk::DONE, kind, length, output);
        let message_bytes = u16::try_from(message.len()).expect("it was cut");
        output.push_header(&failure.errno.code().to_be_bytes());
        output.push_header(&message_bytes.to_be_bytes());
        output.push_header(message.as_bytes());
        if let Some(offset) = failure.offset {
            output.push_header(&offset.to_be_bytes());
        }
    }

    /// Answers a read. `whole` is its [`super::Request::Read::whole`].
    pub fn push_content(
        self,
        to: ReplyTo,
        whole: bool,
        pieces: Vec<ContentPiece>,
        output: &mut Outgoing,
    ) {
        if self == Self::Simple {
            push_simple(to, Ok(()), output);
            pieces
                .into_iter()
                .for_each(|piece| push_piece(piece, output));
            return;
        }
        let total: usize = pieces.iter().map(ContentPiece::len).sum();
        if total == 0 {
            self.push_done(to, output);
            return;
        }
        // One piece, as most reads have, is one chunk in any case.
        if whole || pieces.len() == 1 {
            let hole = pieces.iter().all(ContentPiece::is_hole);
            self.push_stretch(to, to.offset, (total, hole), true, output);
            if !hole {
                pieces
                    .into_iter()
                    .for_each(|piece| push_piece(piece, output));
            }
            return;
        }
        let (mut offset, mut left) = (to.offset, total);
        let mut pieces = pieces.into_iter().peekable();
        let mut stretch: Vec<ContentPiece> = Vec::new();
        while let Some(piece) = pieces.next() {
            let hole = piece.is_hole();
            let mut bytes = piece.len();
            stretch.push(piece);
            while let Some(next) = pieces.next_if(|next| next.is_hole() == hole) {
                bytes += next.len();
                stretch.push(next);
            }
            if bytes > 0 {
                left -= bytes;
                self.push_stretch(to, offset, (bytes, hole), left == 0, output);
                offset += bytes as u64;
            }
            let data = stretch.drain(..).filter(|piece| !piece.is_hole());
            data.for_each(|piece| push_piece(piece, output));
        }
    }

    /// Answers BLOCK_STATUS: one chunk for each context.
    ///
    /// # Panics
    /// If there is no context or a context has no extent: such a reply does not exist.
    pub fn push_status(self, to: ReplyTo, contexts: &[ContextStatus], output: &mut Outgoing) {
        let (last, _) = contexts.split_last().expect("a context was selected");
        for status in contexts {
            let done = if std::ptr::eq(status, last) {
                chunk::DONE
            } else {
                0
            };
            let count = status.extents.len();
            assert!(count > 0, "a status has at least one extent");
            if self == Self::Extended {
                let kind = chunk::BLOCK_STATUS_EXT;
                self.push_chunk(to, done, kind, 8 + count * 16, output);
                output.push_header(&status.context.to_be_bytes());
                output.push_header(&u32::try_from(count).expect("a bounded list").to_be_bytes());
                for extent in &status.extents {
                    output.push_header(&extent.length_bytes.to_be_bytes());
                    output.push_header(&extent.flags.to_be_bytes());
                }
                continue;
            }
            self.push_chunk(to, done, chunk::BLOCK_STATUS, 4 + count * 8, output);
            output.push_header(&status.context.to_be_bytes());
            for extent in &status.extents {
                // A compact request is no longer than this, and so is none of its extents.
                let length = u32::try_from(extent.length_bytes).expect("within the request");
                let flags = u32::try_from(extent.flags).expect("our flags are few");
                output.push_header(&length.to_be_bytes());
                output.push_header(&flags.to_be_bytes());
            }
        }
    }

    /// The beginning of a content chunk; a data chunk's bytes follow.
    fn push_stretch(
        self,
        to: ReplyTo,
        offset: u64,
        (bytes, hole): (usize, bool),
        last: bool,
        output: &mut Outgoing,
    ) {
        let done = if last { chunk::DONE } else { 0 };
        if hole {
            self.push_chunk(to, done, chunk::OFFSET_HOLE, 12, output);
            output.push_header(&offset.to_be_bytes());
            let bytes = u32::try_from(bytes).expect("a payload is bounded");
            output.push_header(&bytes.to_be_bytes());
        } else {
            self.push_chunk(to, done, chunk::OFFSET_DATA, 8 + bytes, output);
            output.push_header(&offset.to_be_bytes());
        }
    }

    fn push_chunk(self, to: ReplyTo, flags: u16, kind: u16, length: usize, output: &mut Outgoing) {
        let mut header = [0; EXTENDED_CHUNK_BYTES];
        header[4..6].copy_from_slice(&flags.to_be_bytes());
        header[6..8].copy_from_slice(&kind.to_be_bytes());
        header[8..16].copy_from_slice(&to.cookie.0.to_be_bytes());
        if self == Self::Extended {
            header[0..4].copy_from_slice(&EXTENDED_REPLY_MAGIC.to_be_bytes());
            header[16..24].copy_from_slice(&to.offset.to_be_bytes());
            header[24..32].copy_from_slice(&(length as u64).to_be_bytes());
            output.push_header(&header);
        } else {
            let length = u32::try_from(length).expect("a payload is bounded");
            header[0..4].copy_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
            header[16..20].copy_from_slice(&length.to_be_bytes());
            output.push_header(&header[..STRUCTURED_CHUNK_BYTES]);
        }
    }
}

fn push_simple(to: ReplyTo, result: Result<(), Errno>, output: &mut Outgoing) {
    let cookie = to.cookie;
    output.push_header(&SimpleReply { cookie, result }.encode());
}

fn push_piece(piece: ContentPiece, output: &mut Outgoing) {
    match piece {
        ContentPiece::Data(data) => output.push_payload(data),
        ContentPiece::Hole(bytes) => output.push_zeroes(bytes),
    }
}
