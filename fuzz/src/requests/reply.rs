//! One reply, however it is framed, read as the protocol's text has it ("Simple reply message",
//! "Structured reply chunk message", "Extended reply chunk message").

use super::handshake::Framing;
use super::{BLOCK_STATUS, FLAG_DF, Header, READ};

const SIMPLE_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;
const EXTENDED_MAGIC: u32 = 0x6e8a_278c;

const CHUNK_DONE: u16 = 1;

#[derive(Debug)]
pub(super) enum Reply {
    Failure,
    Done,
    Content(Vec<u8>),
    /// Lengths and flags.
    Status(Vec<(u64, u64)>),
}

/// Takes from the beginning of a slice what must be there.
struct Bytes<'a, 'b>(&'b mut &'a [u8]);

impl<'a> Bytes<'a, '_> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at_checked(count).expect("a whole reply");
        *self.0 = rest;
        taken
    }

    fn half(&mut self) -> u16 {
        u16::from_be_bytes(*self.take(2).first_chunk().expect("2 bytes"))
    }

    fn word(&mut self) -> u32 {
        u32::from_be_bytes(*self.take(4).first_chunk().expect("4 bytes"))
    }

    fn long(&mut self) -> u64 {
        u64::from_be_bytes(*self.take(8).first_chunk().expect("8 bytes"))
    }
}

impl Reply {
    /// Takes the reply to `header` from the beginning of `replies`.
    pub(super) fn take(
        framing: Framing,
        header: &Header,
        context: Option<u32>,
        replies: &mut &[u8],
    ) -> Self {
        let has_content = matches!(header.kind, READ | BLOCK_STATUS);
        match framing {
            Framing::Extended => Chunks::new(header, context).take(framing, replies),
            Framing::Structured if has_content => {
                Chunks::new(header, context).take(framing, replies)
            }
            _ => Self::simple(header, replies),
        }
    }

    fn simple(header: &Header, replies: &mut &[u8]) -> Self {
        let mut bytes = Bytes(replies);
        assert_eq!(bytes.word(), SIMPLE_MAGIC);
        let failed = bytes.word() != 0;
        assert_eq!(bytes.take(8), header.cookie, "replies come in order here");
        match header.kind {
            _ if failed => Self::Failure,
            READ => {
                let length = usize::try_from(header.length).expect("within the disk");
                Self::Content(bytes.take(length).to_vec())
            }
            _ => Self::Done,
        }
    }
}

/// The chunks of one reply.
struct Chunks<'h> {
    header: &'h Header,
    context: Option<u32>,
    content: Vec<Option<u8>>,
    content_chunks: usize,
    status: Option<Vec<(u64, u64)>>,
    failed: bool,
}

impl<'h> Chunks<'h> {
    fn new(header: &'h Header, context: Option<u32>) -> Self {
        // A read that succeeds is no longer than the disk.
        let read_bytes = match header.kind {
            READ if header.in_range() => usize::try_from(header.length).expect("in range"),
            _ => 0,
        };
        Self {
            header,
            context,
            content: vec![None; read_bytes],
            content_chunks: 0,
            status: None,
            failed: false,
        }
    }

    fn take(mut self, framing: Framing, replies: &mut &[u8]) -> Reply {
        loop {
            let mut bytes = Bytes(replies);
            let magic = bytes.word();
            let (flags, kind) = (bytes.half(), bytes.half());
            assert_eq!(bytes.take(8), self.header.cookie, "replies come in order");
            let length = if framing == Framing::Extended {
                assert_eq!(magic, EXTENDED_MAGIC);
                assert_eq!(bytes.long(), self.header.offset, "the request's offset");
                usize::try_from(bytes.long()).expect("a bounded chunk")
            } else {
                assert_eq!(magic, STRUCTURED_MAGIC);
                bytes.word() as usize
            };
            assert_eq!(flags & !CHUNK_DONE, 0, "unknown flags");
            self.chunk(framing, kind, bytes.take(length));
            if flags & CHUNK_DONE != 0 {
                return self.end();
            }
            assert_ne!(kind, 0, "a chunk of nothing is the last one");
        }
    }

    fn chunk(&mut self, framing: Framing, kind: u16, mut body: &[u8]) {
        let body = &mut body;
        let length = body.len();
        let mut bytes = Bytes(body);
        match (kind, framing) {
            (0, _) => {}
            (1, _) => {
                let offset = bytes.long();
                let data = bytes.take(length - 8);
                self.fill(offset, data);
            }
            (2, _) => {
                let offset = bytes.long();
                let hole = vec![0; bytes.word() as usize];
                self.fill(offset, &hole);
            }
            (5, Framing::Structured) => {
                assert_eq!(Some(bytes.word()), self.context);
                let extents = 0..(length - 4) / 8;
                let extents = extents.map(|_| (bytes.word().into(), bytes.word().into()));
                let extents = extents.collect();
                assert!(self.status.replace(extents).is_none(), "one context");
            }
            (6, Framing::Extended) => {
                assert_eq!(Some(bytes.word()), self.context);
                let extents = (0..bytes.word()).map(|_| (bytes.long(), bytes.long()));
                let extents = extents.collect();
                assert!(self.status.replace(extents).is_none(), "one context");
            }
            (0x8001 | 0x8002, _) => {
                assert_ne!(bytes.word(), 0, "an error is not zero");
                let message = usize::from(bytes.half());
                assert!(std::str::from_utf8(bytes.take(message)).is_ok());
                if kind == 0x8002 {
                    let at = bytes.long().checked_sub(self.header.offset);
                    assert!(at.is_some_and(|at| at < self.header.length));
                }
                self.failed = true;
            }
            other => panic!("a chunk of an unknown type {other:?}"),
        }
        assert!(bytes.0.is_empty(), "a chunk is as long as it says");
    }

    /// "The server MUST NOT send chunks that overlap", nor empty ones.
    fn fill(&mut self, offset: u64, data: &[u8]) {
        assert_eq!(self.header.kind, READ);
        assert!(!data.is_empty());
        let start = offset.checked_sub(self.header.offset).expect("in range");
        let start = usize::try_from(start).expect("in range");
        for (place, byte) in self.content[start..][..data.len()].iter_mut().zip(data) {
            assert!(place.replace(*byte).is_none(), "chunks overlap");
        }
        self.content_chunks += 1;
    }

    fn end(self) -> Reply {
        if self.failed {
            return Reply::Failure;
        }
        if let Some(status) = self.status {
            assert_eq!(self.header.kind, BLOCK_STATUS);
            return Reply::Status(status);
        }
        if self.header.kind != READ {
            return Reply::Done;
        }
        if self.header.flags & FLAG_DF != 0 {
            assert!(self.content_chunks <= 1, "DF is one chunk");
        }
        let content = self.content.into_iter().collect::<Option<_>>();
        Reply::Content(content.expect("every byte is answered"))
    }
}
