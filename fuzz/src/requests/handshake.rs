//! What is said before the first request, from both sides.

const STRUCTURED_REPLY: u8 = 8;
const SET_META_CONTEXT: u8 = 10;
const EXTENDED_HEADERS: u8 = 11;
const GO: u8 = 7;

const ACK: u32 = 1;
const META_CONTEXT: u32 = 4;

const EXPORT: &[u8] = b"d";
const CONTEXT: &[u8] = b"base:allocation";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Simple,
    Structured,
    Extended,
}

impl Framing {
    pub(super) fn request_bytes(self) -> usize {
        match self {
            Self::Simple | Self::Structured => 28,
            Self::Extended => 32,
        }
    }

    pub(super) fn request_magic(self) -> u32 {
        match self {
            Self::Simple | Self::Structured => 0x2560_9513,
            Self::Extended => 0x21e4_1c71,
        }
    }
}

/// What is negotiated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub(super) framing: Framing,
    has_context: bool,
}

impl Form {
    /// The form of this number.
    pub(super) fn of(number: u8) -> Self {
        let (framing, has_context) = match number % 5 {
            0 => (Framing::Simple, false),
            1 => (Framing::Structured, false),
            2 => (Framing::Structured, true),
            3 => (Framing::Extended, false),
            _ => (Framing::Extended, true),
        };
        Self {
            framing,
            has_context,
        }
    }

    /// Options and their data, in order.
    fn options(self) -> Vec<(u8, Vec<u8>)> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("it is short");
        let name = [&length(EXPORT).to_be_bytes(), EXPORT].concat();
        let mut options = Vec::new();
        match self.framing {
            Framing::Simple => {}
            Framing::Structured => options.push((STRUCTURED_REPLY, Vec::new())),
            Framing::Extended => options.push((EXTENDED_HEADERS, Vec::new())),
        }
        if self.has_context {
            let query = [&length(CONTEXT).to_be_bytes(), CONTEXT].concat();
            let data = [&name[..], &[0, 0, 0, 1], &query].concat();
            options.push((SET_META_CONTEXT, data));
        }
        options.push((GO, [&name[..], &[0, 0]].concat()));
        options
    }

    /// Fixed newstyle, no zeroes, the options.
    pub(super) fn handshake(self) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 3];
        for (option, data) in self.options() {
            let length = u32::try_from(data.len()).expect("it is short");
            bytes.extend_from_slice(b"IHAVEOPT\0\0\0");
            bytes.push(option);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&data);
        }
        bytes
    }

    /// DISC.
    pub(super) fn disconnect(self) -> Vec<u8> {
        let mut bytes = vec![0; self.framing.request_bytes()];
        bytes[..4].copy_from_slice(&self.framing.request_magic().to_be_bytes());
        bytes[7] = 2;
        bytes
    }

    /// What follows the greeting and the replies to the options, each of which is granted; and the
    /// context's number.
    pub(super) fn replies(self, received: &[u8]) -> (Option<u32>, &[u8]) {
        let mut rest = &received[18..];
        let mut context = None;
        for (option, _) in self.options() {
            loop {
                let word =
                    |at: usize| u32::from_be_bytes(*rest[at..].first_chunk().expect("4 bytes"));
                let (kind, length) = (word(12), word(16) as usize);
                assert_eq!(word(8), u32::from(option), "replies come in order");
                if kind == META_CONTEXT {
                    assert!(context.replace(word(20)).is_none(), "one context");
                    assert_eq!(&rest[24..20 + length], CONTEXT);
                }
                rest = &rest[20 + length..];
                if kind == ACK {
                    break;
                }
                assert!(kind < 1 << 31, "option {option} is refused");
            }
        }
        assert_eq!(context.is_some(), self.has_context);
        (context, rest)
    }
}
