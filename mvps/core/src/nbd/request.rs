//! Requests: 28 bytes of header, then the payload of a write.
//!
//! ```text
//! 0      4       6      8              16             24         28
//! | magic | flags | type |    cookie    |    offset    |  length  |
//! ```
//!
//! A [`Request`] that exists lies within the export, is permitted on it and carries only flags
//! that its type knows. Anything else is [`Incoming::Refused`] with the errno that the protocol
//! names and the number of payload bytes to throw away.

use super::Broken;
use super::limits::{PAYLOAD_MAX_BYTES, WRITE_SKIP_LIMIT_BYTES};
use super::wire::{Errno, REQUEST_MAGIC, command, command_flag};

/// Length of a compact request header.
pub const REQUEST_BYTES: usize = 28;

/// The client's name for a request, repeated in its reply. Opaque to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cookie(pub u64);

/// A valid request. Offsets and lengths are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// `NBD_CMD_READ`, at most [`PAYLOAD_MAX_BYTES`].
    Read {
        /// First byte.
        offset: u64,
        /// How many; may be 0.
        length: u32,
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
        length: u32,
        /// Durable before the reply.
        fua: bool,
    },
    /// `NBD_CMD_WRITE_ZEROES`
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// How many; may be 0.
        length: u32,
        /// Durable before the reply.
        fua: bool,
        /// The client asks that space stay allocated. Zeroes take no space here, whatever it asks.
        no_hole: bool,
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

    /// The header that asks for this.
    #[must_use]
    pub fn encode(&self, cookie: Cookie) -> [u8; REQUEST_BYTES] {
        let fua_flag = |fua: bool| if fua { command_flag::FUA } else { 0 };
        let (kind, flags, offset, length) = match *self {
            Self::Read { offset, length } => (command::READ, 0, offset, length),
            Self::Write {
                offset,
                length,
                fua,
            } => (command::WRITE, fua_flag(fua), offset, length),
            Self::Disconnect => (command::DISCONNECT, 0, 0, 0),
            Self::Flush => (command::FLUSH, 0, 0, 0),
            Self::Trim {
                offset,
                length,
                fua,
            } => (command::TRIM, fua_flag(fua), offset, length),
            Self::WriteZeroes {
                offset,
                length,
                fua,
                no_hole,
            } => {
                let no_hole_flag = if no_hole { command_flag::NO_HOLE } else { 0 };
                let flags = fua_flag(fua) | no_hole_flag;
                (command::WRITE_ZEROES, flags, offset, length)
            }
            Self::Begin => (command::BEGIN, 0, 0, 0),
            Self::Commit { fua } => (command::COMMIT, fua_flag(fua), 0, 0),
            Self::Rollback => (command::ROLLBACK, 0, 0, 0),
            Self::Lock => (command::LOCK, 0, 0, 0),
        };
        let mut header = [0; REQUEST_BYTES];
        header[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        header[4..6].copy_from_slice(&flags.to_be_bytes());
        header[6..8].copy_from_slice(&kind.to_be_bytes());
        header[8..16].copy_from_slice(&cookie.0.to_be_bytes());
        header[16..24].copy_from_slice(&offset.to_be_bytes());
        header[24..28].copy_from_slice(&length.to_be_bytes());
        header
    }
}

/// What requests are checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Size of the export.
    pub size_bytes: u64,
    /// Whether it refuses to be changed.
    pub read_only: bool,
}

/// One request header, judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// Do it; [`Request::payload_bytes`] follow.
    Valid {
        /// Repeat it in the reply.
        cookie: Cookie,
        /// What to do.
        request: Request,
    },
    /// Throw away `skip_bytes`, then reply with `errno`.
    Refused {
        /// Repeat it in the reply.
        cookie: Cookie,
        /// The reply.
        errno: Errno,
        /// Payload that follows and that nobody wants, at most [`WRITE_SKIP_LIMIT_BYTES`].
        skip_bytes: u32,
    },
}

impl Incoming {
    /// Judges one header.
    ///
    /// # Errors
    /// [`Broken`] if this is no request, or announces more payload than is worth skipping: the
    /// stream is out of step, close it.
    pub fn decode(header: &[u8; REQUEST_BYTES], bounds: &Bounds) -> Result<Self, Broken> {
        let raw = RawRequest::decode(header)?;
        let cookie = Cookie(raw.cookie);
        match raw.judge(bounds) {
            Ok(request) => Ok(Self::Valid { cookie, request }),
            Err(errno) => {
                let carries_payload = raw.kind == command::WRITE;
                let skip_bytes = if carries_payload { raw.length } else { 0 };
                if skip_bytes > WRITE_SKIP_LIMIT_BYTES {
                    return Err(Broken::PayloadTooLarge {
                        length_bytes: u64::from(skip_bytes),
                    });
                }
                Ok(Self::Refused {
                    cookie,
                    errno,
                    skip_bytes,
                })
            }
        }
    }
}

struct RawRequest {
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: u64,
    length: u32,
}

impl RawRequest {
    fn decode(header: &[u8; REQUEST_BYTES]) -> Result<Self, Broken> {
        let [m0, m1, m2, m3, f0, f1, k0, k1, rest @ ..] = *header;
        let [c0, c1, c2, c3, c4, c5, c6, c7, rest @ ..] = rest;
        let [o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3] = rest;
        let magic = u32::from_be_bytes([m0, m1, m2, m3]);
        if magic != REQUEST_MAGIC {
            return Err(Broken::RequestMagic { magic });
        }
        Ok(Self {
            flags: u16::from_be_bytes([f0, f1]),
            kind: u16::from_be_bytes([k0, k1]),
            cookie: u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
            offset: u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }

    fn judge(&self, bounds: &Bounds) -> Result<Request, Errno> {
        let &Self {
            offset,
            length,
            kind,
            ..
        } = self;
        let fua = self.flags & command_flag::FUA != 0;
        let no_hole = self.flags & command_flag::NO_HOLE != 0;
        if kind == command::DISCONNECT {
            return Ok(Request::Disconnect);
        }
        // "FUA … is valid for all commands"; where it has no meaning it is ignored.
        let known_flags = match kind {
            command::WRITE_ZEROES => command_flag::FUA | command_flag::NO_HOLE,
            _ => command_flag::FUA,
        };
        if self.flags & !known_flags != 0 {
            return Err(Errno::Invalid);
        }
        match kind {
            command::READ => {
                self.check_range(bounds, Errno::Invalid)?;
                self.check_payload()?;
                Ok(Request::Read { offset, length })
            }
            command::WRITE => {
                self.check_may_change(bounds, Errno::NoSpace)?;
                self.check_payload()?;
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
            command::WRITE_ZEROES => {
                self.check_may_change(bounds, Errno::NoSpace)?;
                Ok(Request::WriteZeroes {
                    offset,
                    length,
                    fua,
                    no_hole,
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
        let end = self.offset.checked_add(u64::from(self.length));
        if end.is_some_and(|end| end <= bounds.size_bytes) {
            Ok(())
        } else {
            Err(beyond_end)
        }
    }

    fn check_payload(&self) -> Result<(), Errno> {
        if self.length <= PAYLOAD_MAX_BYTES {
            Ok(())
        } else {
            Err(Errno::Invalid)
        }
    }
}
