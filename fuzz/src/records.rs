//! What all persisted records share: bytes as they come, and the same bytes in an envelope that is
//! whole, so that the fuzzer need not guess checksums.

use std::fmt::Debug;

use bytes::Bytes;
use mvps_core::format::codec::{FormatError, ObjectSeed, RecordKind, Writer};

/// Decodes `data` as it is, and as the body of an envelope of `record`. What is accepted must
/// encode to bytes that decode to the same value, and, because a value has one encoding, to the
/// very bytes that were accepted.
pub fn check<T: Debug + PartialEq>(
    record: RecordKind,
    seed: ObjectSeed,
    data: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, FormatError>,
    encode: impl Fn(&T) -> Bytes,
) {
    let mut writer = Writer::new(record);
    for byte in data {
        writer.u8(*byte);
    }
    let sealed = writer.finish(seed);
    for bytes in [data, &sealed[..]] {
        let Ok(value) = decode(bytes) else { continue };
        let again = encode(&value);
        let decoded = decode(&again).expect("what was encoded decodes");
        assert_eq!(decoded, value);
        assert_eq!(again, bytes, "a value has one encoding");
    }
}
