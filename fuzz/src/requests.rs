//! The transmission phase with simple replies: any bytes, in any pieces, after a good handshake.
//!
//! Oracle: a second reading of the same bytes, straight from the protocol's text ("Transmission
//! phase" and DESIGN §5), says of each request in turn what its reply must be, with which payload,
//! and what the disk holds in the end.

use mvps_core::session::{Ended, serve};

use crate::disk::{Change, Everybody, FlatDisk, PAGE_BYTES, SIZE_BYTES};
use crate::stream::Script;
use crate::world::World;

const PAYLOAD_MAX_BYTES: u64 = 32 << 20;
const PAYLOAD_SKIPPED_MAX_BYTES: u64 = 64 << 20;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

const FLAG_FUA: u16 = 1;
const FLAG_NO_HOLE: u16 = 1 << 1;
/// Flags that the protocol knows, and that a server may or may not.
const FLAGS_OPTIONAL: u16 = 0b11_1100;

/// One input: whether the export is read-only, how many pieces, their lengths, then the requests.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let [first, rest @ ..] = data else { return };
    let read_only = first & 0x80 != 0;
    let Some((pieces, requests)) = rest.split_at_checked(usize::from(first % 8)) else {
        return;
    };
    let mut sent = handshake();
    sent.extend_from_slice(requests);
    // Where the stream is in step to the end, all of it is answered then.
    sent.extend_from_slice(&goodbye());
    let disk = FlatDisk::new();
    let mut world = World::new();
    let (stream, received) = Script::new(sent.clone(), pieces);
    let clock = world.clock.clone();
    let ended = world.run(serve(stream, &Everybody::new(&disk, read_only), &clock));
    let received = received.lock().expect("one thread");
    let mut judge = Judge::new(read_only, &received);
    let in_step = judge.requests(&sent[handshake().len()..]);
    if in_step {
        assert_eq!(ended, Ended::Disconnected);
        assert!(judge.replies.is_empty(), "a reply to no request");
        assert!(
            disk.content() == judge.content,
            "the disk holds something else"
        );
    }
}

/// Fixed newstyle, no zeroes, GO of the export `d` without wishes.
fn handshake() -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 3];
    bytes.extend_from_slice(b"IHAVEOPT");
    bytes.extend_from_slice(&[0, 0, 0, 7, 0, 0, 0, 7, 0, 0, 0, 1, b'd', 0, 0]);
    bytes
}

fn goodbye() -> [u8; 28] {
    let mut bytes = [0; 28];
    bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    bytes[7] = 2;
    bytes
}

struct Header {
    flags: u16,
    kind: u16,
    cookie: [u8; 8],
    offset: u64,
    length: u64,
}

impl Header {
    fn take(bytes: &mut &[u8]) -> Option<Option<Self>> {
        let (header, rest) = bytes.split_first_chunk::<28>()?;
        *bytes = rest;
        let half = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let word = |at: usize| u64::from(half(at)) << 16 | u64::from(half(at + 2));
        let cookie = *header[8..16].first_chunk().expect("eight bytes");
        let known = word(0) == u64::from(REQUEST_MAGIC);
        Some(known.then(|| Self {
            flags: half(4),
            kind: half(6),
            cookie,
            offset: word(16) << 32 | word(20),
            length: word(24),
        }))
    }

    fn in_range(&self) -> bool {
        self.offset
            .checked_add(self.length)
            .is_some_and(|end| end <= SIZE_BYTES)
    }

    fn has_no_range(&self) -> bool {
        self.offset == 0 && self.length == 0
    }
}

/// What a reply may be.
enum Expected {
    Failure,
    Success,
    Content(Vec<u8>),
    /// Success or failure; a success means this.
    Optional(Option<Change>),
}

struct Transaction {
    view: Vec<u8>,
    changes: Vec<Change>,
    /// A change in it failed: it must not commit.
    lacks_one: bool,
}

struct Judge<'a> {
    read_only: bool,
    content: Vec<u8>,
    transaction: Option<Transaction>,
    replies: &'a [u8],
}

impl<'a> Judge<'a> {
    /// Begins where the replies do.
    fn new(read_only: bool, received: &'a [u8]) -> Self {
        let mut replies = &received[18..];
        loop {
            let word =
                |at: usize| u32::from_be_bytes(*replies[at..].first_chunk().expect("4 bytes"));
            let (kind, length) = (word(12), word(16) as usize);
            replies = &replies[20 + length..];
            if kind == 1 {
                break;
            }
        }
        Self {
            read_only,
            content: FlatDisk::new().content(),
            transaction: None,
            replies,
        }
    }

    /// Reads all requests; whether the stream stayed in step up to the goodbye.
    fn requests(&mut self, mut bytes: &[u8]) -> bool {
        while let Some(header) = Header::take(&mut bytes) {
            let Some(header) = header else { return false };
            if header.kind == 2 {
                return true;
            }
            let carries = if header.kind == 1 { header.length } else { 0 };
            let expected = match header.kind {
                1 if carries > PAYLOAD_SKIPPED_MAX_BYTES => return false,
                1 => {
                    let length = usize::try_from(carries).expect("it is bounded");
                    let Some((payload, rest)) = bytes.split_at_checked(length) else {
                        return false;
                    };
                    bytes = rest;
                    self.write(&header, payload)
                }
                _ => self.other(&header),
            };
            if self.replies.is_empty() {
                // It ended before this was answered; a goodbye further on would have waited.
                continue;
            }
            self.reply(&header, expected);
        }
        false
    }

    fn change(&mut self, change: Change) {
        match &mut self.transaction {
            Some(open) => {
                change.apply(&mut open.view);
                open.changes.push(change);
            }
            None => change.apply(&mut self.content),
        }
    }

    fn write(&mut self, header: &Header, payload: &[u8]) -> Expected {
        let refused = header.length > PAYLOAD_MAX_BYTES || !header.in_range() || self.read_only;
        if refused || header.flags & !(FLAG_FUA | FLAGS_OPTIONAL) != 0 {
            return Expected::Failure;
        }
        let deletes = payload.is_empty()
            && self.transaction.is_some()
            && header.offset % PAGE_BYTES == 0
            && header.offset < SIZE_BYTES;
        let change = if deletes {
            Change::Trim(header.offset, PAGE_BYTES)
        } else {
            Change::Write(header.offset, payload.to_vec().into())
        };
        self.accept(header, FLAG_FUA, change)
    }

    /// A change that must happen, unless it has flags beside `known` that are only optional.
    fn accept(&mut self, header: &Header, known: u16, change: Change) -> Expected {
        if header.flags & !known != 0 {
            return Expected::Optional(Some(change));
        }
        self.change(change);
        Expected::Success
    }

    fn other(&mut self, header: &Header) -> Expected {
        let hole = if header.kind == 6 { FLAG_NO_HOLE } else { 0 };
        let known = FLAG_FUA | hole;
        let (offset, length) = (header.offset, header.length);
        if header.flags & !(known | FLAGS_OPTIONAL) != 0 {
            return Expected::Failure;
        }
        let optional = header.flags & !known != 0;
        match header.kind {
            0 if !header.in_range() => Expected::Failure,
            0 if optional => Expected::Failure,
            0 => {
                let view = self
                    .transaction
                    .as_ref()
                    .map_or(&self.content, |open| &open.view);
                let offset = usize::try_from(offset).expect("in range");
                let length = usize::try_from(length).expect("in range");
                Expected::Content(view[offset..][..length].to_vec())
            }
            3 => Expected::Optional(None),
            4 | 6 if self.read_only || !header.in_range() => Expected::Failure,
            4 => self.accept(header, known, Change::Trim(offset, length)),
            6 => self.accept(header, known, Change::Zero(offset, length)),
            5 => Expected::Optional(None),
            64..=67 if !header.has_no_range() || optional => Expected::Failure,
            64..=67 => self.control(header.kind),
            _ => Expected::Failure,
        }
    }

    fn control(&mut self, kind: u16) -> Expected {
        match (kind, self.transaction.take()) {
            (64, None) => {
                let view = self.content.clone();
                let changes = Vec::new();
                self.transaction = Some(Transaction {
                    view,
                    changes,
                    lacks_one: false,
                });
            }
            (65, Some(open)) if open.lacks_one => return Expected::Failure,
            (65, Some(open)) => {
                for change in &open.changes {
                    change.apply(&mut self.content);
                }
            }
            (66, Some(_)) => {}
            (67, Some(open)) => {
                self.transaction = Some(open);
                if self.read_only {
                    return Expected::Failure;
                }
            }
            (_, open) => {
                self.transaction = open;
                return Expected::Failure;
            }
        }
        Expected::Success
    }

    fn reply(&mut self, header: &Header, expected: Expected) {
        let (reply, rest) = self
            .replies
            .split_first_chunk::<16>()
            .expect("a whole reply");
        self.replies = rest;
        assert_eq!(reply[..4], REPLY_MAGIC.to_be_bytes());
        assert_eq!(reply[8..], header.cookie, "replies come in order here");
        let failed = reply[4..8] != [0; 4];
        let kind = header.kind;
        if let (true, 1 | 4 | 6, Some(open)) = (failed, kind, &mut self.transaction) {
            open.lacks_one = true;
        }
        match expected {
            Expected::Failure => assert!(failed, "request {kind} must fail"),
            Expected::Success => assert!(!failed, "request {kind} must succeed"),
            Expected::Optional(change) => {
                if let (false, Some(change)) = (failed, change) {
                    self.change(change);
                }
            }
            Expected::Content(content) => {
                assert!(!failed, "a read within the disk");
                let (found, rest) = self
                    .replies
                    .split_at_checked(content.len())
                    .expect("all of it");
                self.replies = rest;
                assert!(
                    found == content,
                    "a read of {}+{}",
                    header.offset,
                    header.length
                );
            }
        }
    }
}
