//! What every record's tests share: golden text, and the damage that every decoder must survive.

use std::fmt::{Debug, Write};

use bytes::Bytes;
use proptest::prelude::*;

use super::codec::{
    ENVELOPE_BYTES, ENVELOPE_HEADER_BYTES, ENVELOPE_TRAILER_BYTES, FormatError, ObjectSeed,
};
use super::object_name::{ObjectKind, ObjectName};
use crate::ids::{EpochNumber, ImageId, Incarnation, ObjectSequence, Tenure, TenureId};

/// Bytes as lines of 16, for golden files.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (line, row) in bytes.chunks(16).enumerate() {
        write!(text, "{:04x} ", line * 16).unwrap();
        for byte in row {
            write!(text, " {byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text
}

/// Every truncation, every single flipped bit and every appended byte of `golden` is corrupt.
pub fn check_damage<T: Debug>(golden: &[u8], decode: impl Fn(&[u8]) -> Result<T, FormatError>) {
    decode(golden).expect("the record itself is good");
    let refuse = |damaged: &[u8], what: &str| match decode(damaged) {
        Err(FormatError::Corrupt { .. }) => {}
        other => panic!("{what}: {other:?}"),
    };
    for length in 0..golden.len() {
        refuse(&golden[..length], &format!("cut to {length} bytes"));
    }
    for bit in 0..golden.len() * 8 {
        let mut damaged = golden.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        refuse(&damaged, &format!("bit {bit} flipped"));
    }
    for byte in [0, 1, 0xff] {
        let mut damaged = golden.to_vec();
        damaged.push(byte);
        refuse(&damaged, &format!("{byte} appended"));
    }
}

/// `body` in the envelope of `golden`, with a length and checksum that are right.
pub fn reseal(seed: ObjectSeed, golden: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = golden[..ENVELOPE_HEADER_BYTES].to_vec();
    bytes[8..].copy_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(body);
    let checksum = seed.checksum(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The body of an envelope.
pub fn body_of(golden: &[u8]) -> &[u8] {
    &golden[ENVELOPE_HEADER_BYTES..golden.len() - ENVELOPE_TRAILER_BYTES]
}

/// A record of the next format version is named as such, and only if its checksum holds; headers
/// that no version writes are corrupt even under a checksum that is right.
pub fn check_newer<T: Debug>(
    seed: ObjectSeed,
    golden: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, FormatError>,
) {
    let mut newer = golden.to_vec();
    newer[4] += 1;
    assert!(matches!(decode(&newer), Err(FormatError::Corrupt { .. })));
    match decode(&reseal(seed, &newer, body_of(golden))) {
        Err(FormatError::NewerFormat { found, known, .. }) => assert_eq!(found, known + 1),
        other => panic!("{other:?}"),
    }
    let mut longer = golden[..golden.len() - ENVELOPE_TRAILER_BYTES].to_vec();
    longer.push(0);
    longer.extend_from_slice(&seed.checksum(&longer).to_le_bytes());
    assert!(
        matches!(decode(&longer), Err(FormatError::Corrupt { .. })),
        "another length"
    );
    for (offset, value) in [(4, 0), (6, 1)] {
        let mut strange = golden.to_vec();
        strange[offset] = value;
        let strange = reseal(seed, &strange, body_of(golden));
        assert!(
            matches!(decode(&strange), Err(FormatError::Corrupt { .. })),
            "{offset}"
        );
    }
}

/// Bodies near the golden one under a checksum that is right: whatever still decodes encodes to
/// the same bytes again, and nothing panics.
pub fn check_crafted<T: Debug>(
    seed: ObjectSeed,
    golden: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, FormatError>,
    encode: impl Fn(&T) -> Bytes,
) {
    let check = |body: &[u8]| {
        let crafted = reseal(seed, golden, body);
        if let Ok(value) = decode(&crafted) {
            assert_eq!(hex(&encode(&value)), hex(&crafted), "{value:?}");
        }
    };
    let body = body_of(golden);
    for offset in 0..body.len() {
        check(&body[..offset]);
        let bits = (0..8).map(|bit| body[offset] ^ (1 << bit));
        let edges = [0, 1, 0x7f, 0x80, 0xff, body[offset].wrapping_add(1)];
        for value in bits.chain(edges) {
            let mut crafted = body.to_vec();
            crafted[offset] = value;
            check(&crafted);
            crafted.insert(offset, 0xff);
            check(&crafted);
        }
    }
}

/// All of the above for an envelope, which also must be worth nothing under another seed.
pub fn check_envelope<T: Debug>(
    seed: ObjectSeed,
    golden: &[u8],
    decode: impl Fn(ObjectSeed, &[u8]) -> Result<T, FormatError>,
    encode: impl Fn(&T) -> Bytes,
) {
    assert!(golden.len() >= ENVELOPE_BYTES);
    let here = |bytes: &[u8]| decode(seed, bytes);
    check_damage(golden, here);
    check_newer(seed, golden, here);
    check_crafted(seed, golden, here, encode);
    assert!(decode(ObjectSeed::of_key("elsewhere"), golden).is_err());
}

pub fn image(text: &str) -> ImageId {
    ImageId::parse(text).unwrap()
}

/// A segment's name, and its key's seed.
pub fn segment_name() -> (ObjectName, ObjectSeed) {
    let name = ObjectName {
        image: image("disk0"),
        incarnation: Incarnation(0x1111_2222_3333_4444_5555_6666_7777_8888),
        epoch: EpochNumber(3),
        sequence: ObjectSequence(17),
        suffix: 0xfeed_beef_0123_4567,
        kind: ObjectKind::Segment,
    };
    let seed = name.seed();
    (name, seed)
}

/// A map object's name, and its key's seed.
pub fn map_name() -> (ObjectName, ObjectSeed) {
    let name = ObjectName {
        kind: ObjectKind::Map,
        ..segment_name().0
    };
    let seed = name.seed();
    (name, seed)
}

/// Any image id.
pub fn any_image() -> impl Strategy<Value = ImageId> {
    "[A-Za-z0-9][A-Za-z0-9._-]{0,127}".prop_map(|text| image(&text))
}

/// Any tenure.
pub fn any_tenure() -> impl Strategy<Value = Tenure> {
    (any::<u64>(), any::<u128>()).prop_map(|(epoch, id)| Tenure {
        epoch: EpochNumber(epoch),
        id: TenureId(id),
    })
}

/// Any name of an object of this kind.
pub fn any_name(kind: ObjectKind) -> impl Strategy<Value = ObjectName> {
    (any_image(), any::<(u128, u64, u64, u64)>()).prop_map(
        move |(image, (incarnation, epoch, sequence, suffix))| ObjectName {
            image,
            incarnation: Incarnation(incarnation),
            epoch: EpochNumber(epoch),
            sequence: ObjectSequence(sequence),
            suffix,
            kind,
        },
    )
}
