use proptest::prelude::*;

use super::*;

const KIND: RecordKind = RecordKind::Manifest;

fn body(write: impl Fn(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::new(KIND);
    write(&mut writer);
    writer.bytes[ENVELOPE_HEADER_BYTES..].to_vec()
}

#[test]
fn varints_have_one_form() {
    let check = |bytes: &[u8], expected: Option<u64>| {
        let mut reader = Reader::new(KIND, bytes);
        let found = reader
            .varint()
            .ok()
            .filter(|_| reader.remaining_bytes() == 0);
        assert_eq!(found, expected, "{bytes:x?}");
    };
    check(&[], None);
    check(&[0x00], Some(0));
    check(&[0x7f], Some(127));
    check(&[0x80, 0x01], Some(128));
    check(&[0x80, 0x00], None);
    check(&[0x80], None);
    let mut longest = [0xff_u8; 10];
    longest[9] = 0x01;
    check(&longest, Some(u64::MAX));
    longest[9] = 0x02;
    check(&longest, None);
    longest[9] = 0x81;
    check(&longest, None);
    check(&[0x80; 11], None);
}

#[test]
fn a_count_never_exceeds_what_the_rest_can_hold() {
    let check = |count: u64, rest: usize, item_bytes: usize, allowed: bool| {
        let mut bytes = body(|writer| writer.varint(count));
        bytes.resize(bytes.len() + rest, 0);
        let found = Reader::new(KIND, &bytes).count(item_bytes).is_ok();
        assert_eq!(found, allowed, "{count} items of {item_bytes} in {rest}");
    };
    check(0, 0, 8, true);
    check(2, 16, 8, true);
    check(3, 23, 8, false);
    check(1, 0, 0, false);
    check(u64::MAX, 100, 1, false);
    check(u64::MAX / 2, 100, 4, false);
}

#[test]
fn an_envelope_says_its_length() {
    let sealed = Writer::new(KIND).finish(ObjectSeed::of_key("a"));
    assert_eq!(envelope_bytes(KIND, &sealed), Some(sealed.len() as u64));
    assert_eq!(envelope_bytes(KIND, &sealed[..11]), None);
    assert_eq!(envelope_bytes(RecordKind::MapLeaf, &sealed), None);
    assert!(Reader::open(KIND, ObjectSeed::of_key("a"), &sealed).is_ok());
    assert!(Reader::open(KIND, ObjectSeed::of_key("b"), &sealed).is_err());
    assert!(Reader::open(RecordKind::MapLeaf, ObjectSeed::of_key("a"), &sealed).is_err());
}

#[test]
fn the_document_lists_every_envelope_once() {
    use RecordKind::*;
    let document = include_str!("../../../../docs/format.md");
    let envelopes = [
        Manifest,
        SegmentHeader,
        SegmentIndex,
        SegmentFooter,
        MapHeader,
        MapLeaf,
        MapRoot,
        MapFooter,
        BufferMetadata,
    ];
    for kind in envelopes {
        let magic = String::from_utf8(kind.magic().to_vec()).unwrap();
        let row = format!("| `{magic}` | {} | {kind} |", kind.version());
        assert_eq!(document.matches(&row).count(), 1, "{row}");
    }
}

proptest! {
    #[test]
    fn values_come_back(
        a: u8, b: u16, c: u32, d: u64, e: u128, f: u64, g: String, small in 0_u64..300
    ) {
        let bytes = body(|writer| {
            writer.u8(a);
            writer.u16(b);
            writer.u32(c);
            writer.u64(d);
            writer.u128(e);
            writer.varint(f);
            writer.varint(small);
            writer.text(&g);
        });
        let mut reader = Reader::new(KIND, &bytes);
        prop_assert_eq!(reader.u8().unwrap(), a);
        prop_assert_eq!(reader.u16().unwrap(), b);
        prop_assert_eq!(reader.u32().unwrap(), c);
        prop_assert_eq!(reader.u64().unwrap(), d);
        prop_assert_eq!(reader.u128().unwrap(), e);
        prop_assert_eq!(reader.varint().unwrap(), f);
        prop_assert_eq!(reader.varint().unwrap(), small);
        prop_assert_eq!(reader.text().unwrap(), g);
        prop_assert!(reader.finish().is_ok());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        let seed = ObjectSeed::of_key("a");
        prop_assert!(Reader::open(KIND, seed, &bytes).is_err());
        let mut reader = Reader::new(KIND, &bytes);
        while reader.varint().is_ok() || reader.text().is_ok() || reader.u8().is_ok() {}
    }
}
