//! The disk cache on real files.

use std::fs;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use mvps_core::env::conformance::check_frame_cache;
use mvps_core::frame_cache::Place;
use mvps_core::ids::{ObjectSequence, PieceKey};

use super::*;

const LIMIT_BYTES: u64 = 4 << 20;

fn settings() -> SlabCacheSettings {
    SlabCacheSettings {
        slab_bytes: 512 << 10,
        ..SlabCacheSettings::new(LIMIT_BYTES)
    }
}

fn key(number: u64) -> PieceKey {
    PieceKey {
        suffix: number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        sequence: ObjectSequence(number),
        offset: number * 64,
    }
}

async fn opened(folder: &Path) -> Arc<dyn FrameCache> {
    let opened = open_disk_cache(folder, settings()).await;
    opened.expect("it opens")
}

async fn fill(cache: &dyn FrameCache) {
    for number in 0..100 {
        cache.put(key(number), Bytes::from(vec![number as u8; 4096]));
    }
    cache.settled().await;
}

/// How many pieces of [`fill`] there are.
async fn there(cache: &dyn FrameCache) -> usize {
    let mut count = 0;
    for number in 0..100 {
        if let Some(piece) = cache.get(key(number)).await {
            assert_eq!(piece, vec![number as u8; 4096]);
            count += 1;
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_a_frame_cache() {
    let folder = tempfile::tempdir().expect("a folder");
    check_frame_cache(&*opened(folder.path()).await, LIMIT_BYTES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_everything() {
    let folder = tempfile::tempdir().expect("a folder");
    fill(&*opened(folder.path()).await).await;
    for _ in 0..2 {
        let cache = opened(folder.path()).await;
        assert_eq!(cache.usage().entries, 100);
        assert_eq!(there(&*cache).await, 100);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_has_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = opened(folder.path()).await;
    fill(&*cache).await;
    assert!(open_disk_cache(folder.path(), settings()).await.is_none());
    assert_eq!(there(&*cache).await, 100);
}

/// Every file of the index, damaged in several ways: what is left of the cache is right, and a new
/// one works.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_begins_anew() {
    let mut names = vec![Path::new(OWN_FOLDER).join("index")];
    let mut ways = 0;
    while let Some(name) = names.pop() {
        for way in 0..3 {
            let folder = tempfile::tempdir().expect("a folder");
            fill(&*opened(folder.path()).await).await;
            let path = folder.path().join(&name);
            if path.is_dir() {
                if way == 0 {
                    let entries = fs::read_dir(&path).expect("a folder");
                    let entries = entries.map(|entry| entry.expect("an entry").file_name());
                    names.extend(entries.map(|entry| name.join(entry)));
                }
                fs::remove_dir_all(&path).expect("removed");
            } else {
                let mut bytes = fs::read(&path).expect("a file");
                match way {
                    0 => bytes.iter_mut().for_each(|byte| *byte ^= 0x55),
                    1 => bytes.truncate(bytes.len() / 2),
                    _ => bytes.clear(),
                }
                fs::write(&path, bytes).expect("written");
            }
            let cache = opened(folder.path()).await;
            there(&*cache).await;
            fill(&*cache).await;
            assert_eq!(there(&*cache).await, 100, "{} {way}", name.display());
            ways += 1;
        }
    }
    assert!(ways > 6, "{ways} ways");
}

#[test]
fn an_index_keeps_what_it_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("index");
    let place = |number: u64| Place {
        slab: number,
        offset: number as u32 * 3,
        bytes: number as u32 * 5,
    };
    let index = FjallIndex::open(&path, &OsEntropy).expect("made");
    let put: Vec<_> = (0..50).map(|it| (key(it), Some(place(it)))).collect();
    index.apply(&put, 50).expect("applied");
    index
        .apply(&[(key(7), None), (key(8), Some(place(9)))], 49)
        .expect("applied");
    let identity = index.identity();
    let check = |index: &FjallIndex| {
        for number in 0..60 {
            let expected = match number {
                7 | 50.. => None,
                8 => Some(place(9)),
                _ => Some(place(number)),
            };
            assert_eq!(index.get(&key(number)).expect("read"), expected, "{number}");
        }
    };
    check(&index);
    drop(index);
    let again = FjallIndex::open(&path, &OsEntropy).expect("opened");
    assert_eq!((again.identity(), again.entries()), (identity, 49));
    check(&again);
    let locked = FjallIndex::open(&path, &OsEntropy);
    assert!(locked.is_err(), "somebody has it");
    check(&again);
}

/// `cargo test --release -p mvps -- --ignored --nocapture speed_of_the_disk_cache`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: meaningful in release only"]
async fn speed_of_the_disk_cache() {
    use std::sync::atomic::Ordering::Relaxed;
    use std::time::Instant;
    let folder = tempfile::tempdir_in(".").expect("a folder");
    let limit = 4 << 30;
    for bytes in [4096 + 34, 65_594] {
        let path = folder.path().join(format!("{bytes}"));
        let settings = || SlabCacheSettings::new(limit);
        let cache = open_disk_cache(&path, settings()).await.expect("it opens");
        let count = (2_u64 << 30) / bytes as u64;
        let piece: Bytes = (0..bytes).map(|at| (at * at) as u8).collect();
        let start = Instant::now();
        for number in 0..count {
            cache.put(key(number), piece.clone());
            if number % 200 == 199 {
                cache.settled().await;
            }
        }
        cache.settled().await;
        let rate =
            (count * bytes as u64) as f64 / start.elapsed().as_secs_f64() / f64::from(1 << 20);
        println!(
            "{bytes}: {count} puts at {rate:.0} MiB/s, {:?}",
            cache.usage()
        );
        drop(cache);
        let start = Instant::now();
        let cache = open_disk_cache(&path, settings()).await.expect("it opens");
        println!("{bytes}: opened in {:?}", start.elapsed());
        for depth in [1_u64, 32] {
            let next = Arc::new(AtomicU64::new(1));
            let (start, reads) = (Instant::now(), 20_000);
            let readers = (0..depth).map(|_| {
                let (cache, next) = (Arc::clone(&cache), Arc::clone(&next));
                tokio::spawn(async move {
                    while next.fetch_add(1, Relaxed) <= reads {
                        let number = next.load(Relaxed).wrapping_mul(0x9e37_79b9) % count;
                        assert!(cache.get(key(number)).await.is_some());
                    }
                })
            });
            for reader in readers.collect::<Vec<_>>() {
                reader.await.expect("no panic");
            }
            let each = start.elapsed() / reads as u32;
            println!("{bytes}: depth {depth}: {each:?} per hit");
        }
        let start = Instant::now();
        for number in 0..20_000_u64 {
            assert!(cache.get(key(1 << 40 | number)).await.is_none());
        }
        println!("{bytes}: {:?} per miss", start.elapsed() / 20_000);
    }
}
