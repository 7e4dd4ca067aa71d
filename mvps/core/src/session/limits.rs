//! The limits of one server's sessions, each with its reason.

use std::time::Duration;

/// Most requests in flight on one connection. Kernel clients send up to 128, nbdcopy 64; beyond
/// this more depth only grows latency.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 256;

/// Most payload in flight on one connection, received or to be sent: twice the largest payload,
/// so that one can arrive while another is worked on.
pub const BYTES_IN_FLIGHT_MAX: u64 = 64 * 1024 * 1024;

/// Most payload of writes in flight to one image, beside the exempt: one largest request, or more
/// small ones than a disk keeps busy with.
pub const IMAGE_PAYLOAD_MAX_BYTES: u64 = 32 * 1024 * 1024;

/// Most payload of writes in flight on all connections of a server, beside the exempt, unless it is
/// told otherwise.
pub const SERVER_PAYLOAD_MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Payload that a connection may have in flight without a reservation, so that it gets on whatever
/// other clients do: 64 MiB for as many connections as there may be.
pub const PAYLOAD_EXEMPT_BYTES: u64 = 64 * 1024;

/// Most content of reads, and extents, in flight to one image, waiting or on its way out, beside
/// the exempt: as many largest reads as a connection may have in flight.
pub const IMAGE_READS_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Most content of reads, and extents, in flight on all connections of a server, beside the exempt,
/// unless it is told otherwise: clients that ask and never read hold no more than that.
pub const SERVER_READS_MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Time in which a client that leaves a request's header or payload incomplete, or replies unread,
/// must go on: it holds memory that others wait for.
pub const STALL_TIME_MAX: Duration = Duration::from_secs(60);

/// What of a payload must arrive, or of replies be taken, within [`STALL_TIME_MAX`]. That is 140
/// kbit/s: slow lines carry it, and nobody holds the reservation of the largest payload for longer
/// than half an hour. Bytes of the other direction do not count.
pub const STALL_PROGRESS_MIN_BYTES: u64 = 1024 * 1024;

/// How long replies may lie unread before they are copied. Until then they are slices of whatever
/// they were read from, of which a slow reader would keep more than is counted.
pub const UNREAD_SLICES_TIME_MAX: Duration = Duration::from_secs(1);

/// What one connection receives before it lets other tasks run: some hundred microseconds' worth.
pub const RECEIVED_PER_TURN_BYTES: u64 = 512 * 1024;

/// How many requests that go through the map one connection begins before it lets other tasks run:
/// each may take most of a millisecond.
pub const WALKS_PER_TURN: usize = 4;

/// What a request that goes through the map takes of a turn, in the bytes that could be moved
/// meanwhile.
pub const WALK_WORK_BYTES: u64 = 64 * 1024;

/// Work from which on a turn is long: other images go first before another connection of the same
/// image. It takes some ten microseconds.
pub const LONG_TURN_BYTES: u64 = 128 * 1024;

/// Time that a client may take over its side of the handshake. What the server takes to open the
/// image does not count.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(15);

/// Time that the end of a connection may take when both sides expect it: TLS sends a last record.
pub const DISCONNECT_TIME_MAX: Duration = Duration::from_secs(1);

/// Most connections of one server, handshakes included: a multiple of what a hypervisor uses; idle
/// ones take some KiB each.
pub const CONNECTIONS_MAX: usize = 1024;

/// Most connections that negotiate at a time; beyond that the one that has done so for longest is
/// evicted. A client needs milliseconds for it.
pub const HALF_OPEN_MAX: usize = 256;

/// Most connections to one image. nbdcopy and qemu use 4 to 16 each.
pub const CONNECTIONS_PER_IMAGE_MAX: usize = 128;

/// Attach requests that wait for one image to open. Each stands for a connection.
pub const ATTACH_QUEUE_MAX: usize = 64;

/// Most connections with a good token for one image, all its versions together: those that have it
/// and those that wait. An image that takes long to open leaves the other slots to others.
pub const SLOTS_PER_IMAGE_MAX: usize = CONNECTIONS_PER_IMAGE_MAX + ATTACH_QUEUE_MAX;

/// How long an image that nobody uses stays open until what was written is published and cleaned up
/// after: cleaning copies tens of gigabytes meanwhile, and another server waits no longer for it.
pub const SETTLE_TIME_MAX: Duration = Duration::from_mins(10);

/// How often the server looks whether such an image is settled.
pub const SETTLE_PAUSE: Duration = Duration::from_secs(1);

/// Time that connections get to finish what is in flight when the server shuts down.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// How often an attach goes back to the registry because the image's actor was just ending.
pub const ATTACH_ATTEMPTS_MAX: usize = 8;

/// What each extent that a BLOCK_STATUS may be answered with counts towards
/// [`BYTES_IN_FLIGHT_MAX`]: as it is collected and as it is sent.
pub const EXTENT_WEIGHT_BYTES: u64 = 32;

/// What a BLOCK_STATUS that finds the budget used up takes, all its contexts together. It is
/// answered with fewer extents then, which a client must expect, and need not wait for a client
/// that does not read.
pub const STATUS_SHORT_BYTES: u64 = PAYLOAD_EXEMPT_BYTES / 2;

/// Versions that are listed to a client that asks what it can compare with: the newest ones; it
/// may ask for any other that is retained.
pub const LISTED_VERSIONS_MAX: usize = 32;

/// The time for which [`UNAUTHENTICATED_LOG_LINES_MAX`] and [`CLIENTS_LOG_LINES_MAX`] are.
pub const LOG_PERIOD: Duration = Duration::from_secs(10);

/// Most lines of the log, per [`LOG_PERIOD`], about connections that have shown no good token:
/// enough to see who they are, and at most some hundred megabytes a day.
pub const UNAUTHENTICATED_LOG_LINES_MAX: u32 = 100;

/// Most lines of the log, per [`LOG_PERIOD`], about connections that have shown a good token: each
/// of as many as there may be can come and go.
pub const CLIENTS_LOG_LINES_MAX: u32 = 2 * CONNECTIONS_MAX as u32;
