//! One request of a client to the server on the engine, and what its answer must be.

use std::ops;

use arbitrary::Arbitrary;
use mvps_core::client::Client;
use mvps_core::nbd::ContextStatus;

use super::{PAGE_BYTES, SIZE_BYTES};
use crate::disk::Change;

/// A range that mostly lies within the image and is mostly small.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub(super) struct Range {
    pub(super) offset: u16,
    pub(super) length: u16,
}

impl Range {
    pub(super) fn clamped(self) -> (u64, u32) {
        let offset = u64::from(self.offset) % SIZE_BYTES;
        let length = u64::from(self.length) % (3 * PAGE_BYTES);
        let length = length.min(SIZE_BYTES - offset);
        (offset, u32::try_from(length).expect("it is small"))
    }
}

#[derive(Debug, Arbitrary)]
pub(super) enum Request {
    Write(Range, u8, bool),
    Zero(Range, bool),
    Trim(Range, bool),
    Read(Range),
    Flush,
    /// BLOCK_STATUS, where the client has contexts; of one extent.
    Status(Range, bool),
    Prefetch(Range),
}

pub(super) fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("it is small")
}

pub(super) fn change_of(request: &Request) -> Change {
    match request {
        Request::Write(range, byte, _) => {
            let (offset, length) = range.clamped();
            Change::Write(offset, vec![*byte; length as usize].into())
        }
        Request::Zero(range, _) => {
            let (offset, length) = range.clamped();
            Change::Zero(offset, u64::from(length))
        }
        Request::Trim(range, _) => {
            let (offset, length) = range.clamped();
            Change::Trim(offset, u64::from(length))
        }
        Request::Read(_) | Request::Flush | Request::Status(..) | Request::Prefetch(_) => {
            Change::Zero(0, 0)
        }
    }
}

/// Whether what is told of `range` is so: of `base:allocation`, or of the changes since `then`.
fn judge(
    status: &ContextStatus,
    range: ops::Range<u64>,
    one: bool,
    content: &[u8],
    then: Option<&[u8]>,
) {
    let mut at = range.start;
    for extent in &status.extents {
        let end = at + extent.length_bytes;
        assert!(at < end && end <= range.end, "an extent within the range");
        let now = &content[index(at)..index(end)];
        match (then, extent.flags) {
            (None, 0) | (Some(_), 1) => {}
            (None, 3) => assert!(now.iter().all(|byte| *byte == 0), "a hole has content"),
            (Some(then), 0) => {
                assert!(now == &then[index(at)..index(end)], "a change is not told");
            }
            (_, flags) => panic!("flags {flags}"),
        }
        at = end;
    }
    match one {
        true => assert_eq!(status.extents.len(), 1),
        // There are fewer pages than a reply may have extents.
        false => assert_eq!(at, range.end, "all of it is told"),
    }
}

/// One request outside of a transaction; whether it was a change.
pub(super) async fn plain(
    client: Option<&Client>,
    content: &mut [u8],
    earlier: Option<&(String, Vec<u8>)>,
    request: &Request,
) -> bool {
    let client = client.expect("connected between steps");
    let change = change_of(request);
    let done = match (request, &change) {
        (Request::Read(range), _) => {
            let (offset, length) = range.clamped();
            let found = client.read(offset, length).await.expect("within the image");
            assert!(
                found[..] == content[index(offset)..][..length as usize],
                "another content"
            );
            return false;
        }
        (Request::Flush, _) => {
            client.flush().await.expect("nothing fails here");
            return false;
        }
        (Request::Prefetch(range), _) => {
            let (offset, length) = range.clamped();
            let prefetched = client.cache(offset, u64::from(length)).await;
            prefetched.expect("within the image");
            return false;
        }
        (Request::Status(range, one), _) => {
            let (offset, length) = range.clamped();
            if client.export().contexts.is_empty() || length == 0 {
                return false;
            }
            let length = u64::from(length);
            let told = client.block_status(offset, length, *one).await;
            let told = told.expect("within the image");
            assert_eq!(told.len(), client.export().contexts.len());
            for status in &told {
                let context = client.export().contexts.iter();
                let mut context = context.filter(|context| context.id == status.context);
                let name = &context.next().expect("a context of its own").name;
                let then = match earlier {
                    Some((earlier, then)) if earlier == name => Some(&then[..]),
                    _ => None,
                };
                judge(status, offset..offset + length, *one, content, then);
            }
            return false;
        }
        (Request::Write(_, _, fua), Change::Write(offset, data)) => {
            client.write(*offset, data.clone(), *fua).await
        }
        (Request::Zero(range, fua), _) => {
            let (offset, length) = range.clamped();
            client.write_zeroes(offset, u64::from(length), *fua).await
        }
        (Request::Trim(range, fua), _) => {
            let (offset, length) = range.clamped();
            client.trim(offset, u64::from(length), *fua).await
        }
        (Request::Write(..), _) => unreachable!("a write is a write"),
    };
    done.expect("a change within the image");
    change.apply(content);
    true
}
