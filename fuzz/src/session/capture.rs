//! Requests as a client sends them, read as steps.

use super::request::{Range, Request};
use super::{End, Step, TransactionStep};

const COMPACT_MAGIC: u32 = 0x2560_9513;
const EXTENDED_MAGIC: u32 = 0x21e4_1c71;

const FLAG_REQ_ONE: u16 = 1 << 3;

/// What a stream asks for, as far as it is understood: with `both`, every other request is the
/// second client's.
pub(super) fn steps(mut bytes: &[u8], both: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut transaction: Option<Vec<TransactionStep>> = None;
    while let Some(header) = Header::take(&mut bytes) {
        let end = match header.kind {
            65 if header.flags & 1 != 0 => Some(End::DurableCommit),
            65 => Some(End::Commit),
            66 => Some(End::RollBack),
            _ => None,
        };
        let range = header.range();
        let forced = header.flags & 1 != 0;
        let request = match header.kind {
            0 => Request::Read(range),
            5 => Request::Prefetch(range),
            7 => Request::Status(range, header.flags & FLAG_REQ_ONE != 0),
            1 => {
                let length = usize::try_from(header.length).unwrap_or(usize::MAX);
                let Some((payload, rest)) = bytes.split_at_checked(length) else {
                    break;
                };
                bytes = rest;
                Request::Write(range, payload.first().copied().unwrap_or(0), forced)
            }
            3 => Request::Flush,
            4 => Request::Trim(range, forced),
            6 => Request::Zero(range, forced),
            2 => {
                steps.push(Step::Reconnect);
                continue;
            }
            64 => {
                transaction.get_or_insert_default();
                continue;
            }
            67 => {
                transaction
                    .iter_mut()
                    .for_each(|of| of.push(TransactionStep::Lock));
                continue;
            }
            _ => {
                if let (Some(end), Some(of)) = (end, transaction.take()) {
                    steps.push(Step::Transaction(of, end));
                }
                continue;
            }
        };
        match &mut transaction {
            Some(of) if both && of.len() % 2 == 1 => of.push(TransactionStep::Other(request)),
            Some(of) => of.push(TransactionStep::Own(request)),
            None if both && steps.len() % 2 == 1 => steps.push(Step::Second(request)),
            None => steps.push(Step::First(request)),
        }
    }
    if let Some(of) = transaction {
        steps.push(Step::Transaction(of, End::Drop));
    }
    steps
}

struct Header {
    flags: u16,
    kind: u16,
    offset: u64,
    length: u64,
}

impl Header {
    /// The next header, compact or extended, if the stream is in step.
    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (word, _) = bytes.split_first_chunk::<4>()?;
        let long = |at: usize| -> Option<u64> {
            Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
        };
        let half = |at: usize| -> Option<u16> {
            Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
        };
        let (header_bytes, length) = match u32::from_be_bytes(*word) {
            COMPACT_MAGIC => (28, long(20)? & u64::from(u32::MAX)),
            EXTENDED_MAGIC => (32, long(24)?),
            _ => return None,
        };
        let header = Self {
            flags: half(4)?,
            kind: half(6)?,
            offset: long(16)?,
            length,
        };
        *bytes = bytes.get(header_bytes..)?;
        Some(header)
    }

    /// The range, exact where it lies within a small image.
    fn range(&self) -> Range {
        let small = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
        Range {
            offset: small(self.offset % super::SIZE_BYTES),
            length: small(self.length),
        }
    }
}
