//! The protocol's limits, each with its reason.

/// Longest export name. "Values": strings are at most 4096 bytes; a token fits.
pub const EXPORT_NAME_MAX_BYTES: usize = 4096;

/// Most option data that is buffered. A GO with the longest name and every information type
/// there is takes about 4.2 KiB; the rest is for meta contexts.
pub const OPTION_DATA_LIMIT_BYTES: u32 = 8 * 1024;

/// Most option data that is skipped in order to answer an option that is over
/// [`OPTION_DATA_LIMIT_BYTES`]. A client that sends more is not negotiating: the connection closes.
pub const OPTION_SKIP_LIMIT_BYTES: u32 = 64 * 1024;

/// Most options on one connection. Real clients send fewer than ten; probing ones that ask for
/// many exports stay well below.
pub const OPTIONS_LIMIT: u32 = 128;

/// Largest payload of one request or reply: the maximum block size that is announced, and what
/// every client assumes where nothing is announced ("Block size constraints").
pub const PAYLOAD_MAX_BYTES: u32 = 32 * 1024 * 1024;

/// Longest payload of a refused write that is read and thrown away so that the refusal can be
/// answered. libnbd permits its users 64 MiB; a client that sends more loses the connection.
pub const WRITE_SKIP_LIMIT_BYTES: u32 = 64 * 1024 * 1024;

/// Largest export: NBD allows up to 2^63 - 1 bytes; rounded down to the largest page size.
pub const IMAGE_SIZE_MAX_BYTES: u64 = (i64::MAX as u64) & !0xffff;

/// Most queries of one LIST_META_CONTEXT or SET_META_CONTEXT: a multiple of the contexts that
/// anybody follows at once.
pub const CONTEXT_QUERIES_MAX: usize = 64;

/// Most contexts that one connection may select; each costs one list of extents per BLOCK_STATUS.
pub const CONTEXTS_MAX: usize = 8;

/// Most extents of one context in one reply, 256 KiB with extended headers. "The server MAY return
/// fewer extents"; clients ask again from where the reply ends.
pub const EXTENTS_MAX: usize = 16 * 1024;

/// Longest message of an error chunk; strings are at most 4096 bytes.
pub const ERROR_MESSAGE_MAX_BYTES: usize = 256;

/// Largest chunk that a client accepts: a largest payload, its offset, and a message.
pub const CHUNK_MAX_BYTES: u32 = PAYLOAD_MAX_BYTES + 8192;
