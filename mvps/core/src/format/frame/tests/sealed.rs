//! Sealed frames: they come back, and nothing of them can be altered, moved or left out.

use proptest::prelude::*;

use super::*;
use crate::encryption::{ImageKeys, RootKey, RootKeys, WrappedDataKey};
use crate::env::memory::SeededEntropy;
use crate::format::object_name::ObjectName;
use crate::ids::ObjectSequence;

/// Always the same data key.
fn keys() -> ImageKeys {
    let (entropy, name) = (SeededEntropy::new(5), segment_name().0);
    let roots = RootKeys::new(vec![RootKey::new([3; 32].into())]);
    let (image, life) = (&name.image, name.incarnation);
    let wrapped = WrappedDataKey::for_new_image(&roots, image, life, &entropy).unwrap();
    ImageKeys::unwrap(&roots, image, &[wrapped]).unwrap()
}

fn seal(name: &ObjectName, level: Option<i32>, pages: &[(u64, Vec<u8>)]) -> Bytes {
    let pages: Vec<(PageNumber, &[u8])> = pages
        .iter()
        .map(|(page, data)| (PageNumber(*page), data.as_slice()))
        .collect();
    let (mut out, key) = (Vec::new(), name.segment_key(&keys()));
    FrameEncoder::new(level).encode(name.seed(), page_size(), key.as_ref(), &pages, &mut out);
    Bytes::from(out)
}

fn open(name: &ObjectName, bytes: &[u8]) -> Result<Frame, FormatError> {
    let key = name.segment_key(&keys());
    let bytes = Bytes::copy_from_slice(bytes);
    decode_frame(name.seed(), page_size(), key.as_ref(), &bytes)
}

fn name() -> ObjectName {
    segment_name().0
}

/// The same bytes under the checksum of another segment.
fn moved(frame: &[u8], to: &ObjectName) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    let checksum = to.seed().checksum(&bytes[CHECKSUM_BYTES..]);
    bytes[..CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn golden_sealed() {
    let frame = seal(&name(), None, &[(5, text(5)), (9, text(9))]);
    insta::assert_snapshot!(hex(&[&frame[..64], &frame[frame.len() - 32..]].concat()));
    assert_eq!(frame.len(), 16 + 2 * 10 + 2 * 4096 + TAG_BYTES);
    let opened = open(&name(), &frame).unwrap();
    assert_eq!(opened.data, [text(5), text(9)].concat());
    check_damage(&frame[..], |bytes| open(&name(), bytes));
}

#[test]
fn whoever_can_make_checksums_still_cannot_alter_anything() {
    for level in [None, Some(3)] {
        let frame = seal(&name(), level, &[(5, text(5)), (6, text(6)), (9, text(9))]);
        let header = 16 + 2 * 10;
        let offsets = (CHECKSUM_BYTES..header).chain((header..frame.len()).step_by(61));
        for offset in offsets.chain(frame.len() - TAG_BYTES..frame.len()) {
            for bit in 0..8 {
                let altered = crafted(&frame, offset, frame[offset] ^ (1 << bit));
                assert!(
                    open(&name(), &altered).is_err(),
                    "bit {bit} of byte {offset}"
                );
            }
        }
        for shorter in [1, TAG_BYTES, TAG_BYTES + 1] {
            let mut bytes = frame[..frame.len() - shorter].to_vec();
            let payload = (bytes.len() - header) as u32;
            bytes[12..16].copy_from_slice(&payload.to_le_bytes());
            assert!(
                open(&name(), &moved(&bytes, &name())).is_err(),
                "{shorter} bytes less"
            );
        }
    }
}

#[test]
fn a_sealed_frame_opens_in_no_other_segment() {
    let frame = seal(&name(), None, &[(5, text(5))]);
    let other = |change: &dyn Fn(&mut ObjectName)| {
        let mut other = name();
        change(&mut other);
        assert_ne!(other, name());
        assert!(open(&other, &moved(&frame, &other)).is_err(), "{other:?}");
    };
    other(&|name| name.suffix += 1);
    other(&|name| name.epoch.0 += 1);
    other(&|name| name.sequence = ObjectSequence(18));
    // Images and incarnations that have no key, or another one.
    other(&|name| name.image = crate::format::damage::image("disk1"));
    other(&|name| name.incarnation.0 += 1);
    assert!(open(&name(), &moved(&frame, &name())).is_ok());
}

#[test]
fn the_same_content_is_never_sealed_the_same_way() {
    let mut seen = std::collections::BTreeSet::new();
    for sequence in 0..4 {
        let name = ObjectName {
            sequence: ObjectSequence(sequence),
            ..name()
        };
        for page in 0..16 {
            let frame = seal(&name, None, &[(page, text(1))]);
            assert!(
                seen.insert(frame[26..].to_vec()),
                "page {page} of {sequence}"
            );
        }
    }
}

#[test]
fn clear_frames_count_only_where_nothing_is_sealed() {
    let clear = encode(None, &[(5, text(5))]);
    let sealed = seal(&name(), None, &[(5, text(5))]);
    assert!(decode(&clear).is_ok());
    for (bytes, opened) in [(&clear, open(&name(), &clear)), (&sealed, decode(&sealed))] {
        assert!(
            matches!(opened, Err(FormatError::Corrupt { .. })),
            "{bytes:?}"
        );
    }
    // Without the key as much is verified as can be.
    let pages = |bytes: &[u8]| {
        let bytes = Bytes::copy_from_slice(bytes);
        verify_sealed_frame(name().seed(), page_size(), &bytes)
    };
    assert_eq!(pages(&sealed), Ok(vec![PageNumber(5)]));
    assert!(pages(&clear).is_err());
    check_damage(&sealed, pages);
}

#[test]
fn nothing_of_the_content_is_there() {
    let content = text(7);
    for level in [None, Some(3)] {
        let frame = seal(&name(), level, &[(7, content.clone())]);
        let found = content
            .windows(6)
            .any(|part| frame.windows(6).any(|seen| seen == part));
        assert!(!found);
    }
}

proptest! {
    #[test]
    fn sealed_frames_come_back(
        pages in proptest::collection::btree_map(0_u64..40, any::<(bool, u64)>(), 1..=16),
        level in proptest::option::of(1..10_i32),
    ) {
        let pages: Vec<(u64, Vec<u8>)> = pages
            .into_iter()
            .map(|(page, (noisy, seed))| {
                (page, if noisy { noise(seed, 4096) } else { text(seed) })
            })
            .collect();
        let frame = open(&name(), &seal(&name(), level, &pages)).unwrap();
        prop_assert!(frame.pages.iter().map(|page| page.0).eq(pages.iter().map(|(page, _)| *page)));
        let data: Vec<u8> = pages.into_iter().flat_map(|(_, data)| data).collect();
        prop_assert!(frame.data == data);
    }
}
