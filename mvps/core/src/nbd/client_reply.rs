//! Replies, client side: what a header announces, and what the chunks of one reply add up to.
//!
//! Chunks of a reply may come in any order and between those of other replies; [`Gathering`] puts
//! one reply together. It never trusts a server: chunks outside the request, twice over the same
//! bytes, or too few before success are [`Broken::Reply`] ("Structured reply types").

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};

use super::context::{ContextStatus, StatusExtent};
use super::limits::CHUNK_MAX_BYTES;
use super::reply::{EXTENDED_CHUNK_BYTES, SIMPLE_REPLY_BYTES, STRUCTURED_CHUNK_BYTES, SimpleReply};
use super::request::Cookie;
use super::wire::{EXTENDED_REPLY_MAGIC, Errno, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk};
use super::{Broken, Framing};

/// What a chunk's header announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHead {
    /// The request's.
    pub cookie: Cookie,
    /// Whether this chunk ends the reply.
    pub done: bool,
    /// Its type.
    kind: u16,
    /// How much follows, at most [`CHUNK_MAX_BYTES`].
    pub payload_bytes: u32,
}

/// The beginning of a reply, or of a chunk of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyHead {
    /// A simple reply; a read's content follows a success.
    Simple(SimpleReply),
    /// A chunk; its payload follows.
    Chunk(ChunkHead),
}

impl ReplyHead {
    /// Reads the header at the beginning of `input`: what it is and how long it is; `None` if it is
    /// not all there.
    ///
    /// # Errors
    /// [`Broken`] if it is none that `framing` permits, or announces too much.
    pub fn decode(input: &[u8], framing: Framing) -> Result<Option<(Self, usize)>, Broken> {
        let Some(magic) = input.first_chunk::<4>() else {
            return Ok(None);
        };
        match (u32::from_be_bytes(*magic), framing) {
            (SIMPLE_REPLY_MAGIC, Framing::Simple | Framing::Structured) => {
                let Some(header) = input.first_chunk() else {
                    return Ok(None);
                };
                let reply = SimpleReply::decode(header)?;
                Ok(Some((Self::Simple(reply), SIMPLE_REPLY_BYTES)))
            }
            (STRUCTURED_REPLY_MAGIC, Framing::Structured) => {
                let Some(header) = input.first_chunk::<STRUCTURED_CHUNK_BYTES>() else {
                    return Ok(None);
                };
                let mut length = &header[16..];
                let head = chunk_head(header, u64::from(length.get_u32()))?;
                Ok(Some((Self::Chunk(head), STRUCTURED_CHUNK_BYTES)))
            }
            (EXTENDED_REPLY_MAGIC, Framing::Extended) => {
                let Some(header) = input.first_chunk::<EXTENDED_CHUNK_BYTES>() else {
                    return Ok(None);
                };
                let mut length = &header[24..];
                let head = chunk_head(header, length.get_u64())?;
                Ok(Some((Self::Chunk(head), EXTENDED_CHUNK_BYTES)))
            }
            (magic, _) => Err(Broken::ReplyMagic { magic }),
        }
    }
}

fn chunk_head(mut header: &[u8], length_bytes: u64) -> Result<ChunkHead, Broken> {
    header.advance(4);
    let (flags, kind) = (header.get_u16(), header.get_u16());
    let cookie = Cookie(header.get_u64());
    match u32::try_from(length_bytes) {
        Ok(payload_bytes) if payload_bytes <= CHUNK_MAX_BYTES => Ok(ChunkHead {
            cookie,
            done: flags & chunk::DONE != 0,
            kind,
            payload_bytes,
        }),
        _ => Err(Broken::PayloadTooLarge { length_bytes }),
    }
}

/// What a request's success brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Nothing,
    /// This many bytes.
    Content(u32),
    /// Extents of this many contexts, within this many bytes.
    Status {
        /// Contexts that were selected.
        contexts: usize,
        /// The request's length.
        length: u64,
    },
}

/// What a reply said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// The content that was read.
    Content(Bytes),
    /// The extents, by context.
    Status(Vec<ContextStatus>),
}

/// What a reply said of a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFailure {
    /// The errno.
    pub errno: Errno,
    /// The server's words; may be empty.
    pub message: String,
    /// Where it happened, if the server said.
    pub offset: Option<u64>,
}

impl From<Errno> for RemoteFailure {
    fn from(errno: Errno) -> Self {
        Self {
            errno,
            message: String::new(),
            offset: None,
        }
    }
}

/// One reply whose chunks are arriving.
#[derive(Debug)]
pub struct Gathering {
    offset: u64,
    expected: Expected,
    content: Content,
    status: Vec<ContextStatus>,
    failure: Option<RemoteFailure>,
}

#[derive(Debug)]
enum Content {
    Nothing,
    /// One chunk that is all of it.
    Whole(Bytes),
    /// The content so far, and which parts of it have come: first byte to end.
    Parts(BytesMut, BTreeMap<u32, u32>),
}

impl Gathering {
    /// The reply to a request that begins at `offset`.
    #[must_use]
    pub fn new(offset: u64, expected: Expected) -> Self {
        Self {
            offset,
            expected,
            content: Content::Nothing,
            status: Vec::new(),
            failure: None,
        }
    }

    /// What is expected.
    #[must_use]
    pub fn expected(&self) -> Expected {
        self.expected
    }

    /// Takes a chunk with its payload. Returns what the reply said once it is complete.
    ///
    /// # Errors
    /// [`Broken::Reply`].
    pub fn take(
        &mut self,
        head: &ChunkHead,
        payload: Bytes,
    ) -> Result<Option<Result<Answer, RemoteFailure>>, Broken> {
        match head.kind {
            chunk::NONE if !head.done || !payload.is_empty() => {
                return Err(broken("an empty chunk that is none, or ends nothing"));
            }
            chunk::NONE => {}
            chunk::OFFSET_DATA => self.take_data(payload)?,
            chunk::OFFSET_HOLE => self.take_hole(&payload)?,
            chunk::BLOCK_STATUS => self.take_status(payload, false)?,
            chunk::BLOCK_STATUS_EXT => self.take_status(payload, true)?,
            kind if kind & chunk::ERROR_BIT != 0 => {
                let failure = take_error(payload, kind == chunk::ERROR_OFFSET)?;
                self.failure.get_or_insert(failure);
            }
            _ => return Err(broken("a chunk of an unknown type")),
        }
        if head.done {
            self.complete().map(Some)
        } else {
            Ok(None)
        }
    }

    fn complete(&mut self) -> Result<Result<Answer, RemoteFailure>, Broken> {
        if let Some(failure) = self.failure.take() {
            return Ok(Err(failure));
        }
        let answer = match self.expected {
            Expected::Nothing => Answer::Done,
            Expected::Content(length) => Answer::Content(self.complete_content(length)?),
            Expected::Status { contexts, .. } if self.status.len() == contexts => {
                Answer::Status(std::mem::take(&mut self.status))
            }
            Expected::Status { .. } => return Err(broken("not one status for each context")),
        };
        Ok(Ok(answer))
    }

    fn complete_content(&mut self, length: u32) -> Result<Bytes, Broken> {
        match std::mem::replace(&mut self.content, Content::Nothing) {
            Content::Nothing if length == 0 => Ok(Bytes::new()),
            Content::Whole(content) => Ok(content),
            Content::Parts(content, parts) if parts.get(&0) == Some(&length) => {
                Ok(content.freeze())
            }
            Content::Nothing | Content::Parts(..) => {
                Err(broken("success before all content has come"))
            }
        }
    }

    fn take_data(&mut self, mut payload: Bytes) -> Result<(), Broken> {
        if payload.len() < 9 {
            return Err(broken("a data chunk without data"));
        }
        let offset = payload.get_u64();
        let bytes = u32::try_from(payload.len()).map_err(|_| broken("a chunk that is too long"))?;
        let Expected::Content(length) = self.expected else {
            return Err(broken("content that nobody asked for"));
        };
        let is_all = offset == self.offset && bytes == length;
        if is_all && matches!(self.content, Content::Nothing) {
            self.content = Content::Whole(payload);
            return Ok(());
        }
        let (content, begin) = self.claim(offset, bytes)?;
        content[begin..begin + payload.len()].copy_from_slice(&payload);
        Ok(())
    }

    fn take_hole(&mut self, mut payload: &[u8]) -> Result<(), Broken> {
        if payload.len() != 12 {
            return Err(broken("a hole chunk of a wrong length"));
        }
        let (offset, bytes) = (payload.get_u64(), payload.get_u32());
        if bytes == 0 {
            return Err(broken("an empty hole"));
        }
        // The buffer is zeroes to begin with.
        self.claim(offset, bytes).map(drop)
    }

    /// Notes that these bytes have come: the buffer for them and where in it they belong.
    fn claim(&mut self, offset: u64, bytes: u32) -> Result<(&mut BytesMut, usize), Broken> {
        let Expected::Content(length) = self.expected else {
            return Err(broken("content that nobody asked for"));
        };
        let outside = || broken("content outside the request");
        let begin = offset.checked_sub(self.offset).ok_or_else(outside)?;
        let begin = u32::try_from(begin).map_err(|_| outside())?;
        let end = begin.checked_add(bytes).filter(|end| *end <= length);
        let end = end.ok_or_else(outside)?;
        if matches!(self.content, Content::Nothing) {
            let buffer = BytesMut::zeroed(length as usize);
            self.content = Content::Parts(buffer, BTreeMap::new());
        }
        let Content::Parts(buffer, parts) = &mut self.content else {
            return Err(broken("content that came twice"));
        };
        let before = parts.range(..=begin).next_back().map(|(b, e)| (*b, *e));
        let after = parts.range(begin..).next().map(|(b, e)| (*b, *e));
        let overlaps =
            before.is_some_and(|(_, e)| e > begin) || after.is_some_and(|(b, _)| b < end);
        if overlaps {
            return Err(broken("content that came twice"));
        }
        // Neighbours become one part, so that what is complete is one part, too.
        let first = before
            .filter(|(_, e)| *e == begin)
            .map_or(begin, |(b, _)| b);
        let last = match after.filter(|(b, _)| *b == end) {
            Some((next, next_end)) => {
                parts.remove(&next);
                next_end
            }
            None => end,
        };
        parts.insert(first, last);
        Ok((buffer, begin as usize))
    }

    fn take_status(&mut self, mut payload: Bytes, extended: bool) -> Result<(), Broken> {
        let Expected::Status { contexts, length } = self.expected else {
            return Err(broken("a block status that nobody asked for"));
        };
        let malformed = || broken("a malformed block status");
        let context = payload.try_get_u32().map_err(|_| malformed())?;
        let extent_bytes = if extended { 16 } else { 8 };
        if extended {
            let count = payload.try_get_u32().map_err(|_| malformed())?;
            if count as usize != payload.len() / extent_bytes {
                return Err(malformed());
            }
        }
        if payload.is_empty() || !payload.len().is_multiple_of(extent_bytes) {
            return Err(malformed());
        }
        let again = self.status.iter().any(|status| status.context == context);
        if again || self.status.len() == contexts {
            return Err(broken("more than one status for a context"));
        }
        let mut extents = Vec::with_capacity(payload.len() / extent_bytes);
        let mut covered: u64 = 0;
        while !payload.is_empty() {
            if covered >= length {
                return Err(broken("extents beyond the request"));
            }
            let extent = if extended {
                (payload.get_u64(), payload.get_u64())
            } else {
                (u64::from(payload.get_u32()), u64::from(payload.get_u32()))
            };
            let (length_bytes, flags) = extent;
            if length_bytes == 0 {
                return Err(broken("an empty extent"));
            }
            // The last extent may say more than was asked.
            let length_bytes = length_bytes.min(length - covered);
            covered += length_bytes;
            extents.push(StatusExtent {
                length_bytes,
                flags,
            });
        }
        self.status.push(ContextStatus { context, extents });
        Ok(())
    }
}

fn take_error(mut payload: Bytes, has_offset: bool) -> Result<RemoteFailure, Broken> {
    let malformed = || broken("a malformed error chunk");
    let code = payload.try_get_u32().map_err(|_| malformed())?;
    let message_bytes = payload.try_get_u16().map_err(|_| malformed())?;
    let message = payload.get(..usize::from(message_bytes));
    let message = String::from_utf8_lossy(message.ok_or_else(malformed)?).into_owned();
    payload.advance(usize::from(message_bytes));
    let offset = match has_offset {
        true => Some(payload.try_get_u64().map_err(|_| malformed())?),
        false => None,
    };
    if code == 0 {
        return Err(malformed());
    }
    Ok(RemoteFailure {
        errno: Errno::from_code(code),
        message,
        offset,
    })
}

fn broken(reason: &'static str) -> Broken {
    Broken::Reply { reason }
}
