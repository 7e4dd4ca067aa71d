//! Segments: header, index, footer and frames. The first byte says which.

use bytes::Bytes;
use mvps_core::format::codec::{ObjectSeed, RecordKind};
use mvps_core::format::frame::{FrameEncoder, decode_frame};
use mvps_core::format::segment::{SegmentFooter, SegmentHeader, SegmentIndex};
use mvps_core::ids::PageSize;

use crate::records::check;

/// One input.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let seed = ObjectSeed::of_key("a segment");
    let Some((kind, body)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => check(
            RecordKind::SegmentIndex,
            seed,
            body,
            |bytes| SegmentIndex::decode(seed, bytes),
            |index| index.encode(seed),
        ),
        1 => check(
            RecordKind::SegmentHeader,
            seed,
            body,
            |bytes| SegmentHeader::decode(seed, bytes),
            |header| header.encode(seed),
        ),
        2 => check(
            RecordKind::SegmentFooter,
            seed,
            body,
            |bytes| SegmentFooter::decode(seed, bytes),
            |footer| footer.encode(seed),
        ),
        _ => frame(seed, kind / 4, body),
    }
}

/// A frame is `checksum | rest`; the checksum is made right here.
fn frame(seed: ObjectSeed, page_size: u8, body: &[u8]) {
    let page_size = PageSize::from_bits(12 + page_size % 5).expect("12 to 16");
    let mut bytes = seed.checksum(body).to_le_bytes().to_vec();
    bytes.extend_from_slice(body);
    for bytes in [bytes, body.to_vec()] {
        let Ok(frame) = decode_frame(seed, page_size, None, &Bytes::from(bytes)) else {
            continue;
        };
        let mut pages = Vec::new();
        for (slot, page) in frame.pages.iter().enumerate() {
            let content = frame.page(*page, slot, page_size);
            let content = content.expect("a page that the frame lists");
            assert_eq!(content.len(), page_size.bytes());
            pages.push((*page, content));
        }
        let borrowed: Vec<_> = pages
            .iter()
            .map(|(page, content)| (*page, &content[..]))
            .collect();
        let mut again = Vec::new();
        FrameEncoder::new(None).encode(seed, page_size, None, &borrowed, &mut again);
        let decoded = decode_frame(seed, page_size, None, &again.into()).expect("what was encoded");
        assert_eq!((decoded.pages, decoded.data), (frame.pages, frame.data));
    }
}
