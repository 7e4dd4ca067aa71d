//! Requests: a header, then the payload of a write.
//!
//! ```text
//! compact    0      4       6      8              16             24         28
//!            | magic | flags | type |    cookie    |    offset    |  length  |
//! extended   0      4       6      8              16             24             32
//!            | magic | flags | type |    cookie    |    offset    |    length    |
//! ```
//!
//! A [`Request`] that exists lies within the export, is permitted on it and carries only flags
//! that its type knows. Anything else is [`Incoming::Refused`] with the errno that the protocol
//! names and the number of payload bytes to throw away.

use super::limits::{PAYLOAD_MAX_BYTES, WRITE_SKIP_LIMIT_BYTES};
use super::wire::{EXTENDED_REQUEST_MAGIC, Errno, REQUEST_MAGIC, command, command_flag};
use super::{Broken, Framing};

/// Length of a compact request header.
pub const REQUEST_BYTES: usize = 28;

/// Length of an extended request header.
pub const EXTENDED_REQUEST_BYTES: usize = 32;

impl Framing {
    /// Length of a request's header.
    #[must_use]
    pub fn request_bytes(self) -> usize {
        match self {
            Self::Simple | Self::Structured => REQUEST_BYTES,
            Self::Extended => EXTENDED_REQUEST_BYTES,
        }
    }
}

/// The client's name for a request, repeated in its reply. Opaque to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cookie(pub u64);

/// What a reply repeats of its request, and what decides about its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyTo {
    /// The request's.
    pub cookie: Cookie,
    /// The request's; extended headers repeat it.
    pub offset: u64,
    /// Whether a success has content. Such requests are answered with chunks, errors included,
    /// once structured replies are negotiated ("Structured reply message").
    pub has_content: bool,
}

/// How a range is to be zeroed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ZeroFlags {
    /// Durable before the reply.
    pub fua: bool,
    /// The client asks that space stay allocated. Zeroes take no space here, whatever it asks.
    pub no_hole: bool,
    /// `NBD_CMD_FLAG_FAST_ZERO`: fail at once rather than be no faster than a write.
    pub fast: bool,
}

/// A valid request. Offsets and lengths are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// `NBD_CMD_READ`, at most [`PAYLOAD_MAX_BYTES`].
    Read {
        /// First byte.
        offset: u64,
        /// How many; may be 0.
        length: u32,
        /// `NBD_CMD_FLAG_DF`: one chunk, whatever the content.
        whole: bool,
    },
    /// `NBD_CMD_WRITE`; `length` bytes of payload follow, at most [`PAYLOAD_MAX_BYTES`].
    Write {
        /// First byte.
        offset: u64,
        /// How many; may be 0, which inside a transaction deletes a page.
        length: u32,
        /// Durable before the reply.
        fua: bool,
    },
    /// `NBD_CMD_DISC`; has no reply.
    Disconnect,
    /// `NBD_CMD_FLUSH`
    Flush,
    /// `NBD_CMD_TRIM`
    Trim {
        /// First byte.
        offset: u64,
        /// How many; may be 0.
        length: u64,
        /// Durable before the reply.
        fua: bool,
    },
    /// `NBD_CMD_CACHE`
    Cache {
        /// First byte.
        offset: u64,
        /// How many; may be 0.
        length: u64,
    },
    /// `NBD_CMD_WRITE_ZEROES`
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// How many; may be 0.
        length: u64,
        /// How.
        flags: ZeroFlags,
    },
    /// `NBD_CMD_BLOCK_STATUS`, of a connection that selected contexts.
    BlockStatus {
        /// First byte.
        offset: u64,
        /// How many, at least 1.
        length: u64,
        /// `NBD_CMD_FLAG_REQ_ONE`: one extent of each context.
        one: bool,
    },
    /// `NBD_CMD_MVPS_BEGIN_TXN`
    Begin,
    /// `NBD_CMD_MVPS_COMMIT_TXN`
    Commit {
        /// Durable before the reply.
        fua: bool,
    },
    /// `NBD_CMD_MVPS_ROLLBACK_TXN`
    Rollback,
    /// `NBD_CMD_MVPS_LOCK_TXN`
    Lock,
}

impl Request {
    /// Bytes of payload that follow the header.
    #[must_use]
    pub fn payload_bytes(&self) -> u32 {
        match self {
            Self::Write { length, .. } => *length,
            _ => 0,
        }
    }

    /// See [`ReplyTo::has_content`].
    #[must_use]
    pub fn has_content(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::BlockStatus { .. })
    }

    /// Whether it is to be durable before the reply.
    #[must_use]
    pub fn fua(&self) -> bool {
        self.flags() & command_flag::FUA != 0
    }

    /// Whether it changes what the export holds.
    #[must_use]
    pub fn is_change(&self) -> bool {
        matches!(
            self,
            Self::Write { .. } | Self::Trim { .. } | Self::WriteZeroes { .. }
        )
    }

    /// The bytes it is about, if it is about any: the first one and how many.
    #[must_use]
    pub fn range(&self) -> (u64, u64) {
        match *self {
            Self::Read { offset, length, .. } | Self::Write { offset, length, .. } => {
                (offset, u64::from(length))
            }
            Self::Trim { offset, length, .. }
            | Self::Cache { offset, length }
            | Self::WriteZeroes { offset, length, .. }
            | Self::BlockStatus { offset, length, .. } => (offset, length),
            _ => (0, 0),
        }
    }

    fn kind(&self) -> u16 {
        match self {
            Self::Read { .. } => command::READ,
            Self::Write { .. } => command::WRITE,
            Self::Disconnect => command::DISCONNECT,
            Self::Flush => command::FLUSH,
            Self::Trim { .. } => command::TRIM,
            Self::Cache { .. } => command::CACHE,
            Self::WriteZeroes { .. } => command::WRITE_ZEROES,
            Self::BlockStatus { .. } => command::BLOCK_STATUS,
            Self::Begin => command::BEGIN,
            Self::Commit { .. } => command::COMMIT,
            Self::Rollback => command::ROLLBACK,
            Self::Lock => command::LOCK,
        }
    }

    fn flags(&self) -> u16 {
        let flag = |set: bool, flag: u16| if set { flag } else { 0 };
        match *self {
            Self::Read { whole, .. } => flag(whole, command_flag::DF),
            Self::Write { fua, .. } | Self::Trim { fua, .. } | Self::Commit { fua } => {
                flag(fua, command_flag::FUA)
            }
            Self::WriteZeroes { flags, .. } => {
                flag(flags.fua, command_flag::FUA)
                    | flag(flags.no_hole, command_flag::NO_HOLE)
                    | flag(flags.fast, command_flag::FAST_ZERO)
            }
            Self::BlockStatus { one, .. } => flag(one, command_flag::REQ_ONE),
            _ => 0,
        }
    }

    /// Appends the header that asks for this; `false`, and nothing, if a compact header has no
    /// room for the length.
    #[must_use]
    pub fn encode(&self, framing: Framing, cookie: Cookie, output: &mut Vec<u8>) -> bool {
        let (offset, length) = self.range();
        let compact = u32::try_from(length).ok();
        let (magic, mut flags) = match framing {
            Framing::Extended => (EXTENDED_REQUEST_MAGIC, self.flags()),
            Framing::Simple | Framing::Structured if compact.is_none() => return false,
            Framing::Simple | Framing::Structured => (REQUEST_MAGIC, self.flags()),
        };
        // "The client MUST set" it where the length is that of a payload.
        if framing == Framing::Extended && matches!(self, Self::Write { .. }) {
            flags |= command_flag::PAYLOAD_LEN;
        }
        output.extend_from_slice(&magic.to_be_bytes());
        output.extend_from_slice(&flags.to_be_bytes());
        output.extend_from_slice(&self.kind().to_be_bytes());
        output.extend_from_slice(&cookie.0.to_be_bytes());
        output.extend_from_slice(&offset.to_be_bytes());
        match (framing, compact) {
            (Framing::Simple | Framing::Structured, Some(length)) => {
                output.extend_from_slice(&length.to_be_bytes());
            }
            _ => output.extend_from_slice(&length.to_be_bytes()),
        }
        true
    }
}

/// What requests are checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Size of the export.
    pub size_bytes: u64,
    /// Whether it refuses to be changed.
    pub read_only: bool,
    /// What was negotiated: decides which header follows, and which flags there are.
    pub framing: Framing,
    /// Whether contexts were selected: without them there is no BLOCK_STATUS.
    pub has_contexts: bool,
}

/// One request header, judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// Do it; [`Request::payload_bytes`] follow.
    Valid {
        /// Where the reply goes.
        to: ReplyTo,
        /// What to do.
        request: Request,
    },
    /// Throw away `skip_bytes`, then reply with `errno`.
    Refused {
        /// Where the reply goes.
        to: ReplyTo,
        /// The reply.
        errno: Errno,
        /// Payload that follows and that nobody wants, at most [`WRITE_SKIP_LIMIT_BYTES`].
        skip_bytes: u32,
        /// Whether it would have changed the image: a transaction that lacks it must not commit.
        is_change: bool,
    },
}

impl Incoming {
    /// Judges the header at the beginning of `input`: what it asks for and how long it is; `None`
    /// if it is not all there.
    ///
    /// # Errors
    /// [`Broken`] if this is no request, or announces more payload than is worth skipping: the
    /// stream is out of step, close it.
    pub fn decode(input: &[u8], bounds: &Bounds) -> Result<Option<(Self, usize)>, Broken> {
        if let Some(magic) = input.first_chunk::<4>() {
            // Said before the rest arrives: who speaks another protocol may send no more.
            check_magic(u32::from_be_bytes(*magic), bounds.framing)?;
        }
        let raw = match bounds.framing {
            Framing::Simple | Framing::Structured => {
                let Some(header) = input.first_chunk::<REQUEST_BYTES>() else {
                    return Ok(None);
                };
                let [head @ .., l0, l1, l2, l3] = *header;
                RawRequest::new(&head, u64::from(u32::from_be_bytes([l0, l1, l2, l3])))
            }
            Framing::Extended => {
                let Some(header) = input.first_chunk::<EXTENDED_REQUEST_BYTES>() else {
                    return Ok(None);
                };
                let [head @ .., l0, l1, l2, l3, l4, l5, l6, l7] = *header;
                let length = u64::from_be_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
                RawRequest::new(&head, length)
            }
        };
        let incoming = raw.incoming(bounds)?;
        Ok(Some((incoming, bounds.framing.request_bytes())))
    }
}

fn check_magic(magic: u32, framing: Framing) -> Result<(), Broken> {
    let expected = match framing {
        Framing::Simple | Framing::Structured => REQUEST_MAGIC,
        Framing::Extended => EXTENDED_REQUEST_MAGIC,
    };
    if magic == expected {
        Ok(())
    } else {
        Err(Broken::RequestMagic { magic })
    }
}

/// The fields of either header.
struct RawRequest {
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: u64,
    length: u64,
}

impl RawRequest {
    /// `head` is what both headers begin with; its magic was checked.
    fn new(head: &[u8; 24], length: u64) -> Self {
        let [_, _, _, _, f0, f1, k0, k1, rest @ ..] = *head;
        let [c0, c1, c2, c3, c4, c5, c6, c7, offset @ ..] = rest;
        Self {
            flags: u16::from_be_bytes([f0, f1]),
            kind: u16::from_be_bytes([k0, k1]),
            cookie: u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
            offset: u64::from_be_bytes(offset),
            length,
        }
    }

    fn incoming(&self, bounds: &Bounds) -> Result<Incoming, Broken> {
        let to = ReplyTo {
            cookie: Cookie(self.cookie),
            offset: self.offset,
            has_content: matches!(self.kind, command::READ | command::BLOCK_STATUS),
        };
        let errno = match self.judge(bounds) {
            Ok(request) => return Ok(Incoming::Valid { to, request }),
            Err(errno) => errno,
        };
        // With extended headers a flag says whether the length is a payload's. A write's is, with
        // or without it: there is nothing else that a write could mean.
        let carries_payload = self.kind == command::WRITE
            || bounds.framing == Framing::Extended && self.has(command_flag::PAYLOAD_LEN);
        let length_bytes = if carries_payload { self.length } else { 0 };
        let skip_bytes = u32::try_from(length_bytes).ok();
        match skip_bytes.filter(|bytes| *bytes <= WRITE_SKIP_LIMIT_BYTES) {
            None => Err(Broken::PayloadTooLarge { length_bytes }),
            Some(skip_bytes) => Ok(Incoming::Refused {
                to,
                errno,
                skip_bytes,
                is_change: matches!(
                    self.kind,
                    command::WRITE | command::TRIM | command::WRITE_ZEROES
                ),
            }),
        }
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The flags that this command knows ("Command flags"). FUA "is valid for all commands"; where
    /// it has no meaning it is ignored.
    fn known_flags(&self, bounds: &Bounds) -> u16 {
        let own = match self.kind {
            // "MUST NOT be set unless … NBD_FLAG_SEND_DF", which takes structured replies.
            command::READ if bounds.framing != Framing::Simple => command_flag::DF,
            // Clients "MUST" set it in extended writes. qemu 10 does not, and what it means is
            // clear.
            command::WRITE if bounds.framing == Framing::Extended => command_flag::PAYLOAD_LEN,
            command::WRITE_ZEROES => command_flag::NO_HOLE | command_flag::FAST_ZERO,
            command::BLOCK_STATUS => command_flag::REQ_ONE,
            _ => 0,
        };
        own | command_flag::FUA
    }

    fn judge(&self, bounds: &Bounds) -> Result<Request, Errno> {
        let (offset, length) = (self.offset, self.length);
        let fua = self.has(command_flag::FUA);
        if self.kind == command::DISCONNECT {
            return Ok(Request::Disconnect);
        }
        if self.flags & !self.known_flags(bounds) != 0 {
            return Err(Errno::Invalid);
        }
        match self.kind {
            command::READ => {
                self.check_range(bounds, Errno::Invalid)?;
                let (length, whole) = (self.payload()?, self.has(command_flag::DF));
                Ok(Request::Read {
                    offset,
                    length,
                    whole,
                })
            }
            command::WRITE => {
                self.check_may_change(bounds, Errno::NoSpace)?;
                let length = self.payload()?;
                Ok(Request::Write {
                    offset,
                    length,
                    fua,
                })
            }
            command::TRIM => {
                self.check_may_change(bounds, Errno::Invalid)?;
                Ok(Request::Trim {
                    offset,
                    length,
                    fua,
                })
            }
            command::CACHE => {
                self.check_range(bounds, Errno::Invalid)?;
                Ok(Request::Cache { offset, length })
            }
            command::WRITE_ZEROES => {
                self.check_may_change(bounds, Errno::NoSpace)?;
                let flags = ZeroFlags {
                    fua,
                    no_hole: self.has(command_flag::NO_HOLE),
                    fast: self.has(command_flag::FAST_ZERO),
                };
                Ok(Request::WriteZeroes {
                    offset,
                    length,
                    flags,
                })
            }
            command::BLOCK_STATUS if bounds.has_contexts && length > 0 => {
                self.check_range(bounds, Errno::Invalid)?;
                let one = self.has(command_flag::REQ_ONE);
                Ok(Request::BlockStatus {
                    offset,
                    length,
                    one,
                })
            }
            command::FLUSH => self.without_range(Request::Flush),
            command::BEGIN => self.without_range(Request::Begin),
            command::COMMIT => self.without_range(Request::Commit { fua }),
            command::ROLLBACK => self.without_range(Request::Rollback),
            command::LOCK if bounds.read_only => Err(Errno::Permission),
            command::LOCK => self.without_range(Request::Lock),
            _ => Err(Errno::Invalid),
        }
    }

    /// Offset and length are reserved in commands that have no range, and must be zero.
    fn without_range(&self, request: Request) -> Result<Request, Errno> {
        if self.offset == 0 && self.length == 0 {
            Ok(request)
        } else {
            Err(Errno::Invalid)
        }
    }

    fn check_may_change(&self, bounds: &Bounds, beyond_end: Errno) -> Result<(), Errno> {
        if bounds.read_only {
            return Err(Errno::Permission);
        }
        self.check_range(bounds, beyond_end)
    }

    fn check_range(&self, bounds: &Bounds, beyond_end: Errno) -> Result<(), Errno> {
        let end = self.offset.checked_add(self.length);
        if end.is_some_and(|end| end <= bounds.size_bytes) {
            Ok(())
        } else {
            Err(beyond_end)
        }
    }

    /// The length as that of a payload ("Block size constraints": EINVAL beyond the maximum).
    fn payload(&self) -> Result<u32, Errno> {
        let length = u32::try_from(self.length).map_err(|_| Errno::Invalid)?;
        if length <= PAYLOAD_MAX_BYTES {
            Ok(length)
        } else {
            Err(Errno::Invalid)
        }
    }
}
