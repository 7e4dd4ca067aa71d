//! What is stored, and whatever else somebody may find.

use bytes::Bytes;
use proptest::prelude::*;

use super::player::{image, stores};
use crate::content_log::block::{FileHeader, HEADER_BYTES, Seed, Stamp, StoreId, decode, encode};
use crate::content_log::superblock::{Listed, Superblock, decode_mark, encode_mark};
use crate::env::memory::MemoryFiles;
use crate::env::{
    BufferBatch, BufferError, BufferRecord, BufferStores, Files, OpenMode, PageRun, RecordRef,
};
use crate::ids::{Generation, Lsn, PageNumber};

fn seed() -> Seed {
    Seed::new(&image(), StoreId(7), Generation(3))
}

fn record() -> impl Strategy<Value = BufferRecord> {
    let run = prop_oneof![
        (1..4_usize).prop_map(|units| PageRun::Data(Bytes::from(vec![9; units * 4096]))),
        (1..1_u64 << 50).prop_map(|pages| PageRun::Hole { pages }),
    ];
    (any::<u64>(), any::<u64>(), run).prop_map(|(first, lsn, run)| BufferRecord {
        at: RecordRef {
            first: PageNumber(first),
            lsn: Lsn(lsn),
        },
        run,
    })
}

fn superblock() -> impl Strategy<Value = Superblock> {
    let known = || proptest::option::of(1..1_u64 << 62);
    let listed = (any::<u64>(), known(), known()).prop_map(|(number, first, last)| Listed {
        number: Generation(number),
        first,
        last,
    });
    let lists = proptest::collection::vec(listed, 0..20);
    let metadata = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
    (any::<[u64; 4]>(), lists, metadata).prop_map(|(numbers, generations, metadata)| Superblock {
        sequence: numbers[0],
        store: StoreId(u128::from(numbers[1]) << 50),
        synced: numbers[2],
        newest: Generation(numbers[3]),
        generations,
        metadata: metadata.map(Bytes::from),
    })
}

proptest! {
    #[test]
    fn a_block_is_read_where_it_was_written_and_nowhere_else(
        records in proptest::collection::vec(record(), 0..6),
        numbers: [u64; 4],
        place in 1..1_u64 << 30,
        flipped: prop::sample::Index,
    ) {
        let offset = place * 64;
        let stamp = Stamp {
            ordinal: numbers[0],
            synced: numbers[1],
            superblock: numbers[2],
            last_lsn: Lsn(numbers[3]),
        };
        let batch = BufferBatch { last_lsn: stamp.last_lsn, records };
        let (block, bytes) = encode(seed(), offset, stamp, &batch);
        prop_assert_eq!(decode(seed(), offset, &bytes), Some(block));
        prop_assert_eq!(decode(seed(), offset + 64, &bytes), None);
        let other = Seed::new(&image(), StoreId(8), Generation(3));
        prop_assert_eq!(decode(other, offset, &bytes), None);
        let mut damaged = bytes.clone();
        damaged[flipped.index(bytes.len())] ^= 1;
        prop_assert_eq!(decode(seed(), offset, &damaged), None);
    }

    #[test]
    fn a_superblock_is_read_as_it_was_written(superblock in superblock(), flipped: prop::sample::Index) {
        let mut bytes = superblock.encode(&image()).expect("a few generations");
        prop_assert_eq!(Superblock::decode(&image(), &bytes), Some(superblock));
        let at = flipped.index(bytes.len());
        bytes[at] ^= 1;
        prop_assert_eq!(Superblock::decode(&image(), &bytes), None);
    }

    #[test]
    fn whatever_is_read_is_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), magic: bool) {
        let mut bytes = bytes;
        if magic && bytes.len() > 8 {
            bytes[..4].copy_from_slice(b"mvlb");
        }
        let _ = decode(seed(), 64, &bytes);
        let _ = FileHeader::decode(seed(), &bytes);
        if magic && bytes.len() > 8 {
            bytes[..8].copy_from_slice(b"mvpssup1");
        }
        let _ = Superblock::decode(&image(), &bytes);
    }
}

#[test]
fn a_mark_is_read_as_it_was_written() {
    let mut mark = encode_mark(&image(), StoreId(7), 12);
    assert_eq!(decode_mark(&image(), StoreId(7), &mark), Some(12));
    assert_eq!(decode_mark(&image(), StoreId(8), &mark), None);
    assert_eq!(decode_mark(&image(), StoreId(7), &mark[..15]), None);
    assert_eq!(decode_mark(&image(), StoreId(7), &[0; 16]), None);
    mark[9] ^= 1;
    assert_eq!(decode_mark(&image(), StoreId(7), &mark), None);
}

#[test]
fn a_file_header_names_its_generation() {
    let header = FileHeader {
        store: StoreId(7),
        generation: Generation(3),
    };
    let bytes = header.encode(seed());
    assert_eq!(bytes.len(), HEADER_BYTES);
    assert_eq!(FileHeader::decode(seed(), &bytes), Some(header));
    let other = Seed::new(&image(), StoreId(7), Generation(4));
    assert_eq!(FileHeader::decode(other, &bytes), None);
}

/// The format before this one is not taken for an empty store.
#[tokio::test]
async fn the_earlier_format_is_refused_with_what_to_do() {
    let files = MemoryFiles::new();
    files.make_folder("disk0").expect("a folder");
    files.open("disk0/store", OpenMode::New).expect("a file");
    let Err(error) = stores(&files, 1).open(&image()).await else {
        panic!("it was opened");
    };
    assert!(matches!(error, BufferError::Unsupported { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("the version of mvps that wrote it"),
        "{error}"
    );
}
