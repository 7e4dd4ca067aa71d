//! The transmission phase: any bytes, in any pieces, after a good handshake, with simple replies,
//! structured ones or extended headers, and with or without `base:allocation`.
//!
//! Oracle: a second reading of the same bytes, straight from the protocol's text ("Transmission
//! phase" and DESIGN §5), says of each request in turn what its reply must be, with which payload,
//! and what the disk holds in the end.

use mvps_core::session::{Ended, serve};

use crate::disk::{Change, Everybody, FlatDisk, PAGE_BYTES, SIZE_BYTES, extents};
use crate::stream::Script;
use crate::world::World;

mod handshake;
mod reply;

use handshake::{Form, Framing};
use reply::Reply;

const PAYLOAD_MAX_BYTES: u64 = 32 << 20;
const PAYLOAD_SKIPPED_MAX_BYTES: u64 = 64 << 20;

/// Most extents of one reply; no range of this disk has as many.
const EXTENTS_MAX: usize = 16 * 1024;

const READ: u16 = 0;
const WRITE: u16 = 1;
const BLOCK_STATUS: u16 = 7;

const FLAG_FUA: u16 = 1;
const FLAG_NO_HOLE: u16 = 1 << 1;
const FLAG_DF: u16 = 1 << 2;
const FLAG_REQ_ONE: u16 = 1 << 3;
const FLAG_PAYLOAD_LEN: u16 = 1 << 5;
/// Flags that the protocol knows, and that a server may or may not.
const FLAGS_OPTIONAL: u16 = 0b11_1100;

/// One input: what was negotiated and whether the export is read-only, how many pieces, their
/// lengths, then the requests.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let [first, rest @ ..] = data else { return };
    let read_only = first & 0x80 != 0;
    let form = Form::of(first >> 4 & 7);
    let Some((pieces, requests)) = rest.split_at_checked(usize::from(first % 8)) else {
        return;
    };
    let handshake = form.handshake();
    let mut sent = handshake.clone();
    sent.extend_from_slice(requests);
    // Where the stream is in step to the end, all of it is answered then.
    sent.extend_from_slice(&form.disconnect());
    let disk = FlatDisk::new();
    let mut world = World::new();
    let (stream, received) = Script::new(sent.clone(), pieces);
    let clock = world.clock.clone();
    let ended = world.run(serve(stream, &Everybody::new(&disk, read_only), &clock));
    let received = received.lock().expect("one thread");
    let mut judge = Judge::new(form, read_only, &received);
    let in_step = judge.requests(&sent[handshake.len()..]);
    if in_step {
        assert_eq!(ended, Ended::Disconnected);
        assert!(judge.replies.is_empty(), "a reply to no request");
        assert!(
            disk.content() == judge.content,
            "the disk holds something else"
        );
    }
}

struct Header {
    flags: u16,
    kind: u16,
    cookie: [u8; 8],
    offset: u64,
    length: u64,
}

impl Header {
    /// The next header; `Some(None)` if the stream is out of step.
    fn take(framing: Framing, bytes: &mut &[u8]) -> Option<Option<Self>> {
        let (header, rest) = bytes.split_at_checked(framing.request_bytes())?;
        *bytes = rest;
        let half = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let word = |at: usize| u64::from(half(at)) << 16 | u64::from(half(at + 2));
        let long = |at: usize| word(at) << 32 | word(at + 4);
        let known = word(0) == u64::from(framing.request_magic());
        Some(known.then(|| Self {
            flags: half(4),
            kind: half(6),
            cookie: *header[8..16].first_chunk().expect("eight bytes"),
            offset: long(16),
            length: match framing {
                Framing::Extended => long(24),
                _ => word(24),
            },
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
    /// Extents, and their flags.
    Status(Vec<(u64, u64)>),
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
    form: Form,
    read_only: bool,
    content: Vec<u8>,
    transaction: Option<Transaction>,
    /// The number of `base:allocation`.
    context: Option<u32>,
    replies: &'a [u8],
}

impl<'a> Judge<'a> {
    /// Begins where the replies do.
    fn new(form: Form, read_only: bool, received: &'a [u8]) -> Self {
        let (context, replies) = form.replies(received);
        Self {
            form,
            read_only,
            content: FlatDisk::new().content(),
            transaction: None,
            context,
            replies,
        }
    }

    /// Reads all requests; whether the stream stayed in step up to the disconnect.
    fn requests(&mut self, mut bytes: &[u8]) -> bool {
        while let Some(header) = Header::take(self.form.framing, &mut bytes) {
            let Some(header) = header else { return false };
            if header.kind == 2 {
                return true;
            }
            let flagged = header.flags & FLAG_PAYLOAD_LEN != 0;
            let carries = match (header.kind, self.form.framing) {
                (WRITE, _) => header.length,
                (_, Framing::Extended) if flagged => header.length,
                _ => 0,
            };
            if carries > PAYLOAD_SKIPPED_MAX_BYTES {
                return false;
            }
            let length = usize::try_from(carries).expect("it is bounded");
            let Some((payload, rest)) = bytes.split_at_checked(length) else {
                return false;
            };
            bytes = rest;
            let expected = match header.kind {
                WRITE => self.write(&header, payload),
                // There is no other request with a payload.
                _ if flagged && self.form.framing == Framing::Extended => Expected::Failure,
                _ => self.other(&header),
            };
            if self.replies.is_empty() {
                // It ended before this was answered; a disconnect further on would have waited.
                continue;
            }
            self.reply(&header, expected);
        }
        false
    }

    fn view(&self) -> &[u8] {
        let open = self.transaction.as_ref();
        open.map_or(&self.content, |open| &open.view)
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
        let known = match self.form.framing {
            Framing::Extended => FLAG_FUA | FLAG_PAYLOAD_LEN,
            _ => FLAG_FUA,
        };
        let deletes = payload.is_empty()
            && self.transaction.is_some()
            && header.offset % PAGE_BYTES == 0
            && header.offset < SIZE_BYTES;
        let change = if deletes {
            Change::Trim(header.offset, PAGE_BYTES)
        } else {
            Change::Write(header.offset, payload.to_vec().into())
        };
        self.accept(header, known, change)
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
        let own = match header.kind {
            READ if self.form.framing != Framing::Simple => FLAG_DF,
            6 => FLAG_NO_HOLE,
            BLOCK_STATUS => FLAG_REQ_ONE,
            _ => 0,
        };
        let known = FLAG_FUA | own;
        let (offset, length) = (header.offset, header.length);
        if header.flags & !(known | FLAGS_OPTIONAL) != 0 {
            return Expected::Failure;
        }
        let optional = header.flags & !known != 0;
        match header.kind {
            READ | BLOCK_STATUS if !header.in_range() || optional => Expected::Failure,
            READ => {
                let offset = usize::try_from(offset).expect("in range");
                let length = usize::try_from(length).expect("in range");
                Expected::Content(self.view()[offset..][..length].to_vec())
            }
            BLOCK_STATUS if self.context.is_none() || length == 0 => Expected::Failure,
            BLOCK_STATUS => {
                let one = header.flags & FLAG_REQ_ONE != 0;
                let count_max = if one { 1 } else { EXTENTS_MAX };
                let found = extents(self.view(), &(offset..offset + length), count_max);
                // A hole that reads as zeroes, or neither ("base:allocation metadata context").
                let flags = |is_set| if is_set { 0 } else { 3 };
                let found = found.iter();
                let found = found.map(|extent| (extent.length_bytes, flags(extent.is_set)));
                Expected::Status(found.collect())
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
        let reply = Reply::take(self.form.framing, header, self.context, &mut self.replies);
        let failed = matches!(reply, Reply::Failure);
        let kind = header.kind;
        if let (true, 1 | 4 | 6, Some(open)) = (failed, kind, &mut self.transaction) {
            open.lacks_one = true;
        }
        match (expected, reply) {
            (Expected::Failure, _) => assert!(failed, "request {kind} must fail"),
            (Expected::Success, _) => assert!(!failed, "request {kind} must succeed"),
            (Expected::Optional(change), _) => {
                if let (false, Some(change)) = (failed, change) {
                    self.change(change);
                }
            }
            (Expected::Content(content), Reply::Content(found)) => {
                let (offset, length) = (header.offset, header.length);
                assert!(found == content, "a read of {offset}+{length}");
            }
            (Expected::Content(content), Reply::Done) => assert!(content.is_empty()),
            (Expected::Status(extents), Reply::Status(found)) => assert_eq!(found, extents),
            (_, other) => panic!("request {kind} within the disk is answered with {other:?}"),
        }
    }
}
