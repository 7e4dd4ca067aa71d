//! Simple replies: 16 bytes of header, then the payload of a successful read.
//!
//! ```text
//! 0      4       8              16
//! | magic | error |    cookie    |
//! ```

use super::Broken;
use super::request::Cookie;
use super::wire::{Errno, SIMPLE_REPLY_MAGIC};

/// Length of a simple reply's header.
pub const SIMPLE_REPLY_BYTES: usize = 16;

/// The answer to one request. A read's payload follows a success; that it does, only the one who
/// knows the request can tell.
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
