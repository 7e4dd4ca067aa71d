//! Map objects: leaf, root, header and footer. The first byte says which.

use mvps_core::format::codec::{ObjectSeed, RecordKind};
use mvps_core::format::map_object::{Leaf, MapFooter, MapHeader, Root};

use crate::records::check;

/// One input.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let seed = ObjectSeed::of_key("a map");
    let Some((kind, body)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => check(
            RecordKind::MapLeaf,
            seed,
            body,
            |bytes| Leaf::decode_any(seed, bytes),
            |(number, leaf)| leaf.encode(seed, *number),
        ),
        1 => check(
            RecordKind::MapRoot,
            seed,
            body,
            |bytes| Root::decode(seed, bytes),
            |root| root.encode(seed),
        ),
        2 => check(
            RecordKind::MapHeader,
            seed,
            body,
            |bytes| MapHeader::decode(seed, bytes),
            |header| header.encode(seed),
        ),
        _ => check(
            RecordKind::MapFooter,
            seed,
            body,
            |bytes| MapFooter::decode(seed, bytes),
            |footer| footer.encode(seed),
        ),
    }
}
