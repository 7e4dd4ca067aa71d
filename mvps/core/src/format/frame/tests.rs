use proptest::prelude::*;

use super::*;
use crate::format::damage::{check_damage, hex, segment_name};

mod sealed;

fn page_size() -> PageSize {
    PageSize::from_bits(12).unwrap()
}

fn encode(level: Option<i32>, pages: &[(u64, Vec<u8>)]) -> Bytes {
    let pages: Vec<(PageNumber, &[u8])> = pages
        .iter()
        .map(|(page, data)| (PageNumber(*page), data.as_slice()))
        .collect();
    let mut out = b"before".to_vec();
    let bytes =
        FrameEncoder::new(level).encode(segment_name().1, page_size(), None, &pages, &mut out);
    assert_eq!(&out[..6], b"before");
    assert_eq!(out.len() - 6, bytes as usize);
    Bytes::from(out).slice(6..)
}

fn decode(bytes: &[u8]) -> Result<Frame, FormatError> {
    decode_frame(
        segment_name().1,
        page_size(),
        None,
        &Bytes::copy_from_slice(bytes),
    )
}

/// Content that no compressor shrinks.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let words =
        (0..).map(|word: u64| xxhash_rust::xxh3::xxh3_64_with_seed(&[1], seed ^ (word << 20)));
    words.flat_map(u64::to_le_bytes).take(bytes).collect()
}

fn text(seed: u64) -> Vec<u8> {
    format!("page {seed} of a text that repeats itself. ")
        .bytes()
        .cycle()
        .take(4096)
        .collect()
}

/// A frame that zstd 1.5.7 made: two pages, 5 and 9, of [`text`] 5 and 9.
const ZSTD_FRAME: &str = include_str!("zstd_frame.hex");

#[test]
fn golden_raw() {
    let frame = encode(
        None,
        &[
            (5, noise(5, 4096)),
            (6, noise(6, 4096)),
            (9, noise(9, 4096)),
        ],
    );
    insta::assert_snapshot!(hex(&frame[..64]));
    assert_eq!(frame.len(), 16 + 2 * 10 + 3 * 4096);
}

#[test]
fn golden_zstd_still_decodes() {
    let bytes: Vec<u8> = ZSTD_FRAME
        .split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    let frame = decode(&bytes).unwrap();
    assert_eq!(frame.pages, [PageNumber(5), PageNumber(9)]);
    assert_eq!(frame.data, [text(5), text(9)].concat());
    check_damage(&bytes, decode);
}

#[test]
fn damage_is_refused() {
    // Every bit of a whole raw page takes long; these are all its bits of structure and a few of
    // its content.
    let frame = encode(None, &[(7, noise(7, 4096))]);
    for bit in (0..30 * 8).chain((30 * 8..frame.len() * 8).step_by(97)) {
        let mut damaged = frame.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(
            matches!(decode(&damaged), Err(FormatError::Corrupt { .. })),
            "bit {bit}"
        );
    }
    for length in 0..frame.len() {
        assert!(decode(&frame[..length]).is_err(), "{length}");
    }
    let elsewhere = ObjectSeed::of_key("elsewhere");
    assert!(decode_frame(elsewhere, page_size(), None, &frame).is_err());
}

/// `frame` with byte `offset` replaced, under a checksum that is right.
fn crafted(frame: &[u8], offset: usize, value: u8) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    bytes[offset] = value;
    let checksum = segment_name().1.checksum(&bytes[CHECKSUM_BYTES..]);
    bytes[..CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn crafted_frames_are_refused_or_whole() {
    for level in [None, Some(3)] {
        let frame = encode(level, &[(5, text(5)), (6, text(6)), (9, text(9))]);
        for offset in CHECKSUM_BYTES..frame.len().min(200) {
            for value in 0..=255 {
                match decode(&crafted(&frame, offset, value)) {
                    Ok(frame) => {
                        assert!(offset != 9 || value <= ENCODING_ZSTD, "encoding {value}");
                        assert_eq!(frame.data.len(), frame.pages.len() * 4096);
                        assert!(frame.pages.is_sorted_by(|a, b| a < b));
                    }
                    Err(FormatError::NewerFormat { found, known, .. }) => {
                        assert_eq!((offset, found, known), (8, u16::from(value), 2));
                    }
                    Err(FormatError::Corrupt { .. }) => {}
                }
            }
        }
    }
}

#[test]
fn runs_have_one_form() {
    // Pages 5 and 7 are two runs; moving the second to 6 or 5 makes them adjacent or the same.
    let frame = encode(None, &[(5, text(5)), (7, text(7))]);
    let second = 16 + 10;
    for (page, ok) in [(4, false), (5, false), (6, false), (7, true), (8, true)] {
        assert_eq!(decode(&crafted(&frame, second, page)).is_ok(), ok, "{page}");
    }
}

#[test]
fn a_frame_decodes_only_at_its_own_page_size() {
    for level in [None, Some(3)] {
        let frame = encode(level, &[(0, text(0)), (1, text(1))]);
        for bits in 13..=16 {
            let size = PageSize::from_bits(bits).unwrap();
            assert!(
                decode_frame(segment_name().1, size, None, &frame).is_err(),
                "{bits}"
            );
        }
    }
}

#[test]
fn compression_is_kept_only_if_it_pays() {
    let encoding = |frame: &Bytes| frame[9];
    let noisy = encode(Some(3), &[(0, noise(1, 4096))]);
    assert_eq!(
        (encoding(&noisy), noisy.len()),
        (ENCODING_RAW, 16 + 10 + 4096)
    );
    let plain = encode(Some(3), &[(0, text(1))]);
    assert_eq!(encoding(&plain), ENCODING_ZSTD);
    assert!(plain.len() < 200);
    assert_eq!(encoding(&encode(None, &[(0, text(1))])), ENCODING_RAW);
    // 1/32 of compressible content is not enough, 1/8 is.
    for (zeroes, expected) in [(128, ENCODING_RAW), (512, ENCODING_ZSTD)] {
        let mut data = noise(2, 4096 - zeroes);
        data.resize(4096, 0);
        assert_eq!(
            encoding(&encode(Some(3), &[(0, data)])),
            expected,
            "{zeroes}"
        );
    }
}

#[test]
fn a_raw_frame_is_not_copied() {
    let bytes = encode(None, &[(0, noise(0, 4096)), (8, noise(8, 4096))]);
    let frame = decode_frame(segment_name().1, page_size(), None, &bytes).unwrap();
    assert_eq!(frame.data.as_ptr(), bytes[bytes.len() - 8192..].as_ptr());
    assert_eq!(
        frame.page(PageNumber(8), 1, page_size()).unwrap(),
        noise(8, 4096)
    );
    assert_eq!(frame.page(PageNumber(8), 0, page_size()), None);
    assert_eq!(frame.page(PageNumber(8), 2, page_size()), None);
}

#[test]
fn the_largest_frames_fit() {
    for bits in 12..=16 {
        let size = PageSize::from_bits(bits).unwrap();
        let data = noise(9, size.bytes());
        let pages: Vec<(PageNumber, &[u8])> = (0..frame_pages(size) as u64)
            .map(|page| (PageNumber(u64::MAX - 1 - 2 * page), data.as_slice()))
            .rev()
            .collect();
        let mut out = Vec::new();
        let bytes =
            FrameEncoder::new(Some(3)).encode(segment_name().1, size, None, &pages, &mut out);
        assert!(bytes as usize <= FRAME_STORED_MAX_BYTES);
        let frame = decode_frame(segment_name().1, size, None, &Bytes::from(out)).unwrap();
        assert_eq!(frame.pages.len(), pages.len());
        assert_eq!(frame.data.len(), FRAME_MAX_BYTES);
    }
}

proptest! {
    #[test]
    fn frames_come_back(
        pages in proptest::collection::btree_map(0_u64..40, any::<(bool, u64)>(), 1..=16),
        base: u32,
        level in proptest::option::of(-3..10_i32),
    ) {
        let pages: Vec<(u64, Vec<u8>)> = pages
            .into_iter()
            .map(|(page, (noisy, seed))| {
                (page + u64::from(base), if noisy { noise(seed, 4096) } else { text(seed) })
            })
            .collect();
        let frame = decode(&encode(level, &pages)).unwrap();
        let numbers: Vec<u64> = frame.pages.iter().map(|page| page.0).collect();
        let expected: Vec<u64> = pages.iter().map(|(page, _)| *page).collect();
        prop_assert_eq!(numbers, expected);
        let data: Vec<u8> = pages.into_iter().flat_map(|(_, data)| data).collect();
        prop_assert!(frame.data == data);
    }

    #[test]
    fn any_bytes_are_refused(bytes: Vec<u8>) {
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn any_header_under_a_right_checksum_is_refused_or_whole(mut bytes: Vec<u8>) {
        bytes.splice(0..0, [0_u8; 8]);
        if bytes.len() > 16 {
            bytes[8] = 1;
            bytes[9] &= 1;
            let payload = (bytes.len() - 16).saturating_sub(usize::from(bytes[10]) * 10) as u32;
            bytes[12..16].copy_from_slice(&payload.to_le_bytes());
            let last = bytes.len() - 1;
            let value = bytes[last];
            bytes = crafted(&bytes, last, value);
        }
        if let Ok(frame) = decode(&bytes) {
            prop_assert_eq!(frame.data.len(), frame.pages.len() * 4096);
        }
    }
}

#[test]
#[ignore = "prints the golden zstd frame for a new format version"]
fn print_golden_zstd() {
    let frame = encode(Some(3), &[(5, text(5)), (9, text(9))]);
    let hex: Vec<String> = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("{}", hex.join(" "));
}
