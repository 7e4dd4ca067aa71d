//! What every [`BufferStores`] holds to while nothing fails.
//!
//! Crashes and damage differ by implementation and are tested beside each; this suite closes
//! stores and opens them again.

use std::sync::Arc;

use bytes::Bytes;

use crate::env::{
    BufferBatch, BufferError, BufferHandle, BufferRecord, BufferStore, BufferStores,
    CHECKSUM_UNIT_BYTES, PageRun, RECORD_MAX_BYTES, RecordEntry, RecordHeader, RecordRef,
    Recovered, RecoveredGeneration,
};
use crate::ids::{Generation, ImageId, Lsn, PageNumber};

/// Runs the suite. `stores` gives access to the same, initially empty, place each time, as a new
/// process would have it.
///
/// # Panics
/// On the first promise that is not kept.
pub async fn check_buffer_stores(stores: &dyn Fn() -> Arc<dyn BufferStores>) {
    new_store_is_empty(stores).await;
    committed_records_are_read(stores).await;
    reopening_recovers_everything(stores).await;
    metadata_is_replaced(stores).await;
    generations_are_sealed(stores).await;
    empty_generations_can_be_sealed(stores).await;
    dropped_generations_stay_readable(stores).await;
    sealed_generations_are_read(stores).await;
    second_opening_is_refused(stores).await;
    images_are_separate(stores).await;
    large_batches_are_whole(stores).await;
    many_small_batches_are_kept(stores).await;
    absent_records_are_corrupt(stores).await;
}

type Stores<'a> = &'a dyn Fn() -> Arc<dyn BufferStores>;

fn image(name: &str) -> ImageId {
    ImageId::parse(name).expect("the suite's names are image ids")
}

async fn open(stores: Stores<'_>, name: &str) -> Recovered {
    match stores().open(&image(name)).await {
        Ok(recovered) => recovered,
        Err(error) => panic!("{name}: opening failed: {error}"),
    }
}

/// Content that differs by page, LSN and offset.
fn content(first: u64, lsn: u64, bytes: usize) -> Bytes {
    let seed = (first << 20) ^ lsn;
    let words =
        (0..bytes as u64 / 8).map(|i| (seed ^ (i << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).collect()
}

fn at(first: u64, lsn: u64) -> RecordRef {
    RecordRef {
        first: PageNumber(first),
        lsn: Lsn(lsn),
    }
}

fn data(first: u64, lsn: u64, bytes: usize) -> BufferRecord {
    BufferRecord {
        at: at(first, lsn),
        run: PageRun::Data(content(first, lsn, bytes)),
    }
}

fn hole(first: u64, lsn: u64, pages: u64) -> BufferRecord {
    BufferRecord {
        at: at(first, lsn),
        run: PageRun::Hole { pages },
    }
}

async fn commit(store: &Arc<dyn BufferStore>, lsn: u64, records: Vec<BufferRecord>) {
    let batch = BufferBatch {
        last_lsn: Lsn(lsn),
        records,
    };
    let outcome = store.commit(batch).await;
    outcome.unwrap_or_else(|error| panic!("commit of LSN {lsn} failed: {error}"));
}

fn expect_content(handle: &Arc<dyn BufferHandle>, first: u64, lsn: u64, bytes: usize) {
    let expected = content(first, lsn, bytes);
    let read = |range| match handle.read(at(first, lsn), range) {
        Ok(read) => read,
        Err(error) => panic!("reading page {first} of LSN {lsn} failed: {error}"),
    };
    assert_eq!(read(0..bytes), expected, "page {first} of LSN {lsn}, whole");
    let half = (bytes / 2).next_multiple_of(CHECKSUM_UNIT_BYTES);
    for range in [
        0..CHECKSUM_UNIT_BYTES,
        half - CHECKSUM_UNIT_BYTES..half,
        half..bytes,
    ] {
        if range.is_empty() {
            continue;
        }
        let part = expected.slice(range.clone());
        assert_eq!(
            read(range.clone()),
            part,
            "{range:?} of page {first} of LSN {lsn}"
        );
    }
}

fn entry(first: u64, lsn: u64, bytes: u32) -> RecordEntry {
    RecordEntry {
        at: at(first, lsn),
        header: RecordHeader::Data { bytes },
    }
}

fn hole_entry(first: u64, lsn: u64, pages: u64) -> RecordEntry {
    RecordEntry {
        at: at(first, lsn),
        header: RecordHeader::Hole { pages },
    }
}

fn active(recovered: &Recovered) -> &RecoveredGeneration {
    let last = recovered.generations.last();
    last.expect("there is always an active generation")
}

fn numbers(recovered: &Recovered) -> Vec<Generation> {
    recovered.generations.iter().map(|g| g.generation).collect()
}

async fn new_store_is_empty(stores: Stores<'_>) {
    for _ in 0..2 {
        let recovered = open(stores, "empty").await;
        assert_eq!(recovered.metadata, None, "metadata of a new store");
        assert_eq!(recovered.last_lsn, Lsn(0), "last LSN of a new store");
        assert_eq!(recovered.generations.len(), 1, "generations of a new store");
        assert_eq!(active(&recovered).records, [], "records of a new store");
    }
}

async fn committed_records_are_read(stores: Stores<'_>) {
    let recovered = open(stores, "read").await;
    let handle = &active(&recovered).handle;
    let sizes = [4096, 8192, 65536, RECORD_MAX_BYTES];
    for (lsn, bytes) in (1..).zip(sizes) {
        let record = data(100 * lsn, lsn, bytes);
        commit(&recovered.store, lsn, vec![record, hole(7, lsn, 1 << 40)]).await;
        expect_content(handle, 100 * lsn, lsn, bytes);
    }
    for (lsn, bytes) in (1..).zip(sizes) {
        expect_content(handle, 100 * lsn, lsn, bytes);
    }
    recovered.store.sync().await.expect("sync succeeds");
    for (lsn, bytes) in (1..).zip(sizes) {
        expect_content(handle, 100 * lsn, lsn, bytes);
    }
}

async fn reopening_recovers_everything(stores: Stores<'_>) {
    let recovered = open(stores, "reopen").await;
    let store = &recovered.store;
    commit(store, 1, vec![data(300, 1, 8192), data(2, 1, 4096)]).await;
    // A group: several commits in one batch, and one page written by each of them.
    let group = vec![data(2, 2, 4096), hole(1, 3, 5), data(2, 4, 12288)];
    commit(store, 4, group).await;
    store.sync().await.expect("sync succeeds");
    commit(store, 5, vec![]).await;
    commit(store, 6, vec![data(u64::MAX >> 12, 6, 4096)]).await;
    drop(recovered);

    for round in 0..3 {
        let recovered = open(stores, "reopen").await;
        let extra = 10 + round;
        let mut expected = vec![
            hole_entry(1, 3, 5),
            entry(2, 1, 4096),
            entry(2, 2, 4096),
            entry(2, 4, 12288),
            entry(300, 1, 8192),
            entry(u64::MAX >> 12, 6, 4096),
        ];
        expected.extend((10..extra).map(|lsn| entry(u64::MAX >> 12, lsn, 4096)));
        let last = if round == 0 { 6 } else { extra - 1 };
        assert_eq!(recovered.last_lsn, Lsn(last), "last LSN after reopening");
        assert_eq!(active(&recovered).records, expected, "round {round}");
        let handle = &active(&recovered).handle;
        for (first, lsn, bytes) in [(2, 1, 4096), (2, 4, 12288), (300, 1, 8192)] {
            expect_content(handle, first, lsn, bytes);
        }
        let record = data(u64::MAX >> 12, extra, 4096);
        commit(&recovered.store, extra, vec![record]).await;
    }
}

async fn metadata_is_replaced(stores: Stores<'_>) {
    let large = Bytes::from(vec![7; 60 * 1024]);
    for value in [Bytes::from_static(b"first"), large, Bytes::new()] {
        let recovered = open(stores, "metadata").await;
        let put = recovered.store.put_metadata(value.clone()).await;
        put.expect("metadata can be written");
        drop(recovered);
        let recovered = open(stores, "metadata").await;
        assert_eq!(recovered.metadata, Some(value), "metadata after reopening");
    }
}

async fn generations_are_sealed(stores: Stores<'_>) {
    let recovered = open(stores, "seal").await;
    let first = active(&recovered).generation;
    let store = &recovered.store;
    let mut expected = Vec::new();
    for lsn in 1..=4_u64 {
        commit(store, lsn, vec![data(9, lsn, 8192)]).await;
        let (sealed, handle) = store.seal().await.expect("sealing succeeds");
        expected.push(sealed);
        expect_content(&handle, 9, lsn, 8192);
    }
    commit(store, 5, vec![data(9, 5, 4096)]).await;
    let (next, handle) = store.active().await.expect("one is active");
    assert!(
        expected.iter().all(|sealed| *sealed < next),
        "{expected:?} and then {next}"
    );
    expect_content(&handle, 9, 5, 4096);
    assert_eq!(
        expected[0], first,
        "the active generation is the one sealed"
    );
    assert!(
        expected.is_sorted_by(|a, b| a < b),
        "generations ascend: {expected:?}"
    );
    drop((handle, recovered));

    let recovered = open(stores, "seal").await;
    let found = numbers(&recovered);
    assert_eq!(found[..4], expected, "sealed generations after reopening");
    assert_eq!(
        found.len(),
        5,
        "the active generation follows the sealed ones"
    );
    assert_eq!(recovered.last_lsn, Lsn(5), "last LSN over all generations");
    for (generation, lsn) in recovered.generations.iter().zip(1..=4) {
        assert_eq!(generation.records, [entry(9, lsn, 8192)]);
        expect_content(&generation.handle, 9, lsn, 8192);
    }
    assert_eq!(active(&recovered).records, [entry(9, 5, 4096)]);
}

async fn empty_generations_can_be_sealed(stores: Stores<'_>) {
    let recovered = open(stores, "seal-empty").await;
    let (first, _) = recovered.store.seal().await.expect("sealing succeeds");
    let (second, _) = recovered.store.seal().await.expect("sealing succeeds");
    assert!(first < second, "generations ascend");
    drop(recovered);
    let recovered = open(stores, "seal-empty").await;
    let third = active(&recovered).generation;
    assert!(
        third > second,
        "a seal is remembered: {third} after {second}"
    );
    commit(&recovered.store, 1, vec![data(1, 1, 4096)]).await;
}

async fn dropped_generations_stay_readable(stores: Stores<'_>) {
    let recovered = open(stores, "drop").await;
    let store = &recovered.store;
    commit(store, 1, vec![data(1, 1, RECORD_MAX_BYTES)]).await;
    let (first, first_handle) = store.seal().await.expect("sealing succeeds");
    commit(store, 2, vec![data(2, 2, 4096)]).await;
    let (second, _) = store.seal().await.expect("sealing succeeds");
    commit(store, 3, vec![data(3, 3, 4096)]).await;
    let dropped = store.drop_generation(first).await;
    dropped.expect("a sealed generation can be dropped");
    expect_content(&first_handle, 1, 1, RECORD_MAX_BYTES);
    commit(store, 4, vec![data(4, 4, 4096)]).await;
    store.sync().await.expect("sync succeeds");
    expect_content(&first_handle, 1, 1, RECORD_MAX_BYTES);
    expect_content(&active(&recovered).handle, 1, 1, RECORD_MAX_BYTES);
    drop(first_handle);
    drop(recovered);

    let recovered = open(stores, "drop").await;
    let found = numbers(&recovered);
    assert_eq!(
        found.len(),
        2,
        "one sealed and one active generation remain"
    );
    assert_eq!(found[0], second, "the other sealed generation remains");
    expect_content(&recovered.generations[0].handle, 2, 2, 4096);
    assert_eq!(
        active(&recovered).records,
        [entry(3, 3, 4096), entry(4, 4, 4096)]
    );
    let dropped = recovered.store.drop_generation(second).await;
    dropped.expect("a recovered sealed generation can be dropped");
    recovered.store.sync().await.expect("sync succeeds");
    drop(recovered);
    let recovered = open(stores, "drop").await;
    assert_eq!(
        numbers(&recovered),
        found[1..],
        "only the active generation remains"
    );
}

async fn sealed_generations_are_read(stores: Stores<'_>) {
    let recovered = open(stores, "sealed").await;
    let store = &recovered.store;
    for lsn in 1..=20 {
        commit(
            store,
            lsn,
            vec![data(lsn, lsn, RECORD_MAX_BYTES), hole(900, lsn, 3)],
        )
        .await;
    }
    let (sealed, handle) = store.seal().await.expect("sealing succeeds");
    commit(store, 21, vec![data(21, 21, 4096)]).await;
    for lsn in 1..=20 {
        expect_content(&handle, lsn, lsn, RECORD_MAX_BYTES);
    }
    expect_content(&active(&recovered).handle, 1, 1, RECORD_MAX_BYTES);
    commit(store, 22, vec![data(22, 22, 4096)]).await;
    drop((handle, recovered));

    let recovered = open(stores, "sealed").await;
    assert_eq!(
        recovered.generations.len(),
        2,
        "generations after reopening"
    );
    let found = &recovered.generations[0];
    assert_eq!(found.generation, sealed);
    assert_eq!(found.records.len(), 40, "records of a sealed generation");
    assert!(
        found.records.is_sorted_by_key(|r| r.at),
        "records are sorted"
    );
    for lsn in 1..=20 {
        expect_content(&found.handle, lsn, lsn, RECORD_MAX_BYTES);
    }
    assert_eq!(
        active(&recovered).records,
        [entry(21, 21, 4096), entry(22, 22, 4096)]
    );
    let dropped = recovered.store.drop_generation(sealed).await;
    dropped.expect("a sealed generation can be dropped");
    expect_content(&found.handle, 20, 20, RECORD_MAX_BYTES);
}

async fn second_opening_is_refused(stores: Stores<'_>) {
    let recovered = open(stores, "locked").await;
    for _ in 0..2 {
        match stores().open(&image("locked")).await {
            Err(BufferError::Locked { .. }) => {}
            Err(other) => panic!("a second opening is refused as Locked, not as: {other}"),
            Ok(_) => panic!("a second opening is refused"),
        }
    }
    // Who held the lock is not disturbed.
    commit(&recovered.store, 1, vec![data(1, 1, 4096)]).await;
    drop(recovered);
    let recovered = open(stores, "locked").await;
    assert_eq!(
        recovered.last_lsn,
        Lsn(1),
        "the first opener's commit is there"
    );
}

async fn images_are_separate(stores: Stores<'_>) {
    let left = open(stores, "left").await;
    let right = open(stores, "right").await;
    commit(&left.store, 1, vec![data(1, 1, 4096)]).await;
    drop((left, right));
    let right = open(stores, "right").await;
    assert_eq!(active(&right).records, [], "another image's records");
}

async fn large_batches_are_whole(stores: Stores<'_>) {
    const RECORDS: u64 = 256; // of 128 KiB: 32 MiB, the largest NBD request
    const PAGES_EACH: u64 = 32;
    let recovered = open(stores, "large").await;
    let before = recovered.store.usage().disk_bytes;
    let records = (0..RECORDS).map(|i| data(i * PAGES_EACH, 1, RECORD_MAX_BYTES));
    commit(&recovered.store, 1, records.collect()).await;
    let grown = recovered.store.usage().disk_bytes.saturating_sub(before);
    assert!(grown >= 32 << 20, "usage grew by {grown} bytes for 32 MiB");
    drop(recovered);
    let recovered = open(stores, "large").await;
    let generation = active(&recovered);
    assert_eq!(
        generation.records.len() as u64,
        RECORDS,
        "records of a large batch"
    );
    for i in 0..RECORDS {
        expect_content(&generation.handle, i * PAGES_EACH, 1, RECORD_MAX_BYTES);
    }
}

async fn many_small_batches_are_kept(stores: Stores<'_>) {
    const BATCHES: u64 = 2_000;
    let recovered = open(stores, "small").await;
    for lsn in 1..=BATCHES {
        commit(&recovered.store, lsn, vec![data(lsn % 17, lsn, 4096)]).await;
    }
    drop(recovered);
    let recovered = open(stores, "small").await;
    assert_eq!(recovered.last_lsn, Lsn(BATCHES), "last LSN of many batches");
    let generation = active(&recovered);
    let mut expected: Vec<_> = (1..=BATCHES)
        .map(|lsn| entry(lsn % 17, lsn, 4096))
        .collect();
    expected.sort_by_key(|e| e.at);
    assert!(
        generation.records == expected,
        "every record of many batches, sorted"
    );
    for lsn in (1..=BATCHES).step_by(97) {
        expect_content(&generation.handle, lsn % 17, lsn, 4096);
    }
}

async fn absent_records_are_corrupt(stores: Stores<'_>) {
    let recovered = open(stores, "absent").await;
    let handle = Arc::clone(&active(&recovered).handle);
    commit(&recovered.store, 1, vec![data(1, 1, 4096), hole(5, 1, 2)]).await;
    for absent in [at(1, 2), at(2, 1), at(5, 1)] {
        match handle.read(absent, 0..CHECKSUM_UNIT_BYTES) {
            Err(BufferError::Corrupt { .. }) => {}
            other => panic!("reading the absent {absent:?} gave {other:?}"),
        }
    }
}
