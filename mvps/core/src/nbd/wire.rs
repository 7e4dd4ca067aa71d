//! The numbers of the NBD protocol, and nothing else.

/// First word of a server's greeting ("NBDMAGIC").
pub(super) const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second word of a newstyle greeting, and first of every option ("IHAVEOPT").
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// First word of every option reply.
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of a compact request.
pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of an extended request.
pub(super) const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// First word of a simple reply.
pub(super) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a structured reply chunk.
pub(super) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// First word of an extended reply chunk.
pub(super) const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Handshake and client flags ("Handshake flags", "Client flags").
pub(super) mod handshake {
    pub(crate) const FIXED_NEWSTYLE: u16 = 1;
    pub(crate) const NO_ZEROES: u16 = 2;
    /// Zeroes that end an answer to EXPORT_NAME unless both sides said NO_ZEROES.
    pub(crate) const PADDING_BYTES: usize = 124;
}

/// Option types ("Option types").
pub(super) mod option {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const STARTTLS: u32 = 5;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
    pub(crate) const LIST_META_CONTEXT: u32 = 9;
    pub(crate) const SET_META_CONTEXT: u32 = 10;
    pub(crate) const EXTENDED_HEADERS: u32 = 11;
}

/// Option reply types ("Option reply types").
pub(super) mod option_reply {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const META_CONTEXT: u32 = 4;
    /// Set on every error.
    pub(crate) const ERROR_BIT: u32 = 1 << 31;
    pub(crate) const ERR_UNSUP: u32 = ERROR_BIT | 1;
    pub(crate) const ERR_POLICY: u32 = ERROR_BIT | 2;
    pub(crate) const ERR_INVALID: u32 = ERROR_BIT | 3;
    pub(crate) const ERR_TLS_REQD: u32 = ERROR_BIT | 5;
    pub(crate) const ERR_UNKNOWN: u32 = ERROR_BIT | 6;
    pub(crate) const ERR_SHUTDOWN: u32 = ERROR_BIT | 7;
    pub(crate) const ERR_TOO_BIG: u32 = ERROR_BIT | 9;
    pub(crate) const ERR_EXT_HEADER_REQD: u32 = ERROR_BIT | 10;
}

/// Information types of INFO and GO.
pub(super) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const DESCRIPTION: u16 = 2;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags ("Transmission flags").
pub(super) mod transmission {
    pub(crate) const HAS_FLAGS: u16 = 1;
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const SEND_FLUSH: u16 = 1 << 2;
    pub(crate) const SEND_FUA: u16 = 1 << 3;
    pub(crate) const SEND_TRIM: u16 = 1 << 5;
    pub(crate) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(crate) const SEND_DF: u16 = 1 << 7;
    pub(crate) const CAN_MULTI_CONN: u16 = 1 << 8;
    pub(crate) const SEND_CACHE: u16 = 1 << 10;
    pub(crate) const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Request types ("Request types"); from 64 on ours.
pub(super) mod command {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISCONNECT: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const CACHE: u16 = 5;
    pub(crate) const WRITE_ZEROES: u16 = 6;
    pub(crate) const BLOCK_STATUS: u16 = 7;
    /// `NBD_CMD_MVPS_BEGIN_TXN`
    pub(crate) const BEGIN: u16 = 64;
    /// `NBD_CMD_MVPS_COMMIT_TXN`
    pub(crate) const COMMIT: u16 = 65;
    /// `NBD_CMD_MVPS_ROLLBACK_TXN`
    pub(crate) const ROLLBACK: u16 = 66;
    /// `NBD_CMD_MVPS_LOCK_TXN`
    pub(crate) const LOCK: u16 = 67;
}

/// Command flags ("Command flags").
pub(super) mod command_flag {
    pub(crate) const FUA: u16 = 1;
    pub(crate) const NO_HOLE: u16 = 1 << 1;
    pub(crate) const DF: u16 = 1 << 2;
    pub(crate) const REQ_ONE: u16 = 1 << 3;
    pub(crate) const FAST_ZERO: u16 = 1 << 4;
    pub(crate) const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Chunk flags and types ("Structured reply flags", "Structured reply types").
pub(super) mod chunk {
    pub(crate) const DONE: u16 = 1;
    pub(crate) const NONE: u16 = 0;
    pub(crate) const OFFSET_DATA: u16 = 1;
    pub(crate) const OFFSET_HOLE: u16 = 2;
    pub(crate) const BLOCK_STATUS: u16 = 5;
    pub(crate) const BLOCK_STATUS_EXT: u16 = 6;
    /// Set on every error.
    pub(crate) const ERROR_BIT: u16 = 1 << 15;
    pub(crate) const ERROR: u16 = ERROR_BIT | 1;
    pub(crate) const ERROR_OFFSET: u16 = ERROR_BIT | 2;
}

/// Flags of extents, by context ("Metadata contexts"; the second is ours).
pub(super) mod extent_flag {
    pub(crate) const HOLE: u64 = 1;
    pub(crate) const ZERO: u64 = 1 << 1;
    /// `mvps:changed-since:`: what is there may differ from what was there then.
    pub(crate) const CHANGED: u64 = 1;
}

/// Error numbers of replies ("Error values"). Zero, success, is not one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Errno {
    /// `NBD_EPERM`: read-only, or a transaction that conflicts or was aborted.
    #[error("operation not permitted (EPERM)")]
    Permission,
    /// `NBD_EIO`
    #[error("input/output error (EIO)")]
    Io,
    /// `NBD_ENOMEM`: a transaction over its limit.
    #[error("out of memory (ENOMEM)")]
    OutOfMemory,
    /// `NBD_EINVAL`
    #[error("invalid argument (EINVAL)")]
    Invalid,
    /// `NBD_ENOSPC`
    #[error("no space left (ENOSPC)")]
    NoSpace,
    /// `NBD_EOVERFLOW`
    #[error("value too large (EOVERFLOW)")]
    Overflow,
    /// `NBD_ENOTSUP`
    #[error("operation not supported (ENOTSUP)")]
    NotSupported,
    /// `NBD_ESHUTDOWN`: this server no longer serves the image.
    #[error("server is shutting down (ESHUTDOWN)")]
    Shutdown,
}

impl Errno {
    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::Permission => 1,
            Self::Io => 5,
            Self::OutOfMemory => 12,
            Self::Invalid => 22,
            Self::NoSpace => 28,
            Self::Overflow => 75,
            Self::NotSupported => 95,
            Self::Shutdown => 108,
        }
    }

    /// The meaning of a number other than 0; unknown ones count as `EINVAL` ("Error values").
    #[must_use]
    pub fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Permission,
            5 => Self::Io,
            12 => Self::OutOfMemory,
            28 => Self::NoSpace,
            75 => Self::Overflow,
            95 => Self::NotSupported,
            108 => Self::Shutdown,
            _ => Self::Invalid,
        }
    }
}
