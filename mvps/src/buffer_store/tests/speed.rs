//! Figures for docs/decisions/fjall-buffer.md. Run with
//! `cargo test --release -p mvps --lib buffer_store::tests::speed -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use mvps_core::env::{BufferBatch, BufferRecord, BufferStore, PageRun, RecordRef};
use mvps_core::ids::PageNumber;

use super::*;

const GENERATION_BYTES: usize = 256 << 20;

struct Percentiles(Vec<Duration>);

impl std::fmt::Display for Percentiles {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort();
        let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize];
        let (p50, p99, worst) = (at(0.5), at(0.99), at(1.0));
        write!(formatter, "p50 {p50:.1?}, p99 {p99:.1?}, worst {worst:.1?}")
    }
}

fn noise(bytes: usize, mut state: u64) -> Bytes {
    let words = (0..bytes / 8).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    words.flat_map(u64::to_le_bytes).collect()
}

struct Load {
    lsn: u64,
    source: Bytes,
}

impl Load {
    /// A commit of `bytes`, in records of at most 128 KiB, at a scattered page.
    fn batch(&mut self, bytes: usize) -> BufferBatch {
        self.lsn += 1;
        let lsn = Lsn(self.lsn);
        let first = (self.lsn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) * 256;
        let piece = bytes.min(128 * 1024);
        let records = (0..bytes / piece).map(|i| {
            let start = i * piece;
            BufferRecord {
                at: RecordRef {
                    first: PageNumber(first + (start / 4096) as u64),
                    lsn,
                },
                run: PageRun::Data(self.source.slice(start..start + piece)),
            }
        });
        BufferBatch {
            last_lsn: lsn,
            records: records.collect(),
        }
    }
}

async fn fill(store: &Arc<dyn BufferStore>, load: &mut Load, bytes: usize, total: usize) {
    let mut times = Vec::new();
    let begun = Instant::now();
    for _ in 0..total / bytes {
        let batch = load.batch(bytes);
        let commit = Instant::now();
        store.commit(batch).await.unwrap();
        times.push(commit.elapsed());
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "commits of {} KiB: {:.0}/s, {:.2} GB/s, {}",
        bytes / 1024,
        times.len() as f64 / seconds,
        total as f64 / seconds / 1e9,
        Percentiles(times)
    );
}

fn read_all(recovered: &RecoveredGeneration, records: &[(RecordRef, usize)]) {
    let mut times = Vec::new();
    let begun = Instant::now();
    for i in 0..200_000_u64 {
        let draw = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let (at, bytes) = records[(draw % records.len() as u64) as usize];
        let unit = (draw >> 20) as usize % (bytes / 4096) * 4096;
        let read = Instant::now();
        recovered.handle.read(at, unit..unit + 4096).unwrap();
        times.push(read.elapsed());
    }
    let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
    println!(
        "reads of 4 KiB from records of {} KiB: {rate:.0}/s, {}",
        records[0].1 / 1024,
        Percentiles(times)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, in release builds"]
async fn figures() {
    let root = match std::env::var_os("MVPS_BENCH_DIRECTORY") {
        Some(path) => tempfile::tempdir_in(path).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let stores = FjallBufferStores::new(root.path());
    for bytes in [4096, 16 * 1024, 64 * 1024, 128 * 1024, 1 << 20] {
        let image = ImageId::parse(&format!("speed-{bytes}")).unwrap();
        let opened = stores.open(&image).await.unwrap();
        let mut load = Load {
            lsn: 0,
            source: noise(1 << 20, 7),
        };
        tokio::time::sleep(Duration::from_millis(200)).await;
        fill(&opened.store, &mut load, bytes, GENERATION_BYTES).await;
        let begun = Instant::now();
        opened.store.sync().await.unwrap();
        println!("  sync of a generation: {:.1?}", begun.elapsed());
        let mut again = Load { lsn: 0, ..load };
        let records: Vec<_> = (0..GENERATION_BYTES / bytes)
            .flat_map(|_| again.batch(bytes).records)
            .map(|record| (record.at, bytes.min(128 * 1024)))
            .collect();
        read_all(&opened.generations[0], &records);
        drop(opened);

        let begun = Instant::now();
        let opened = stores.open(&image).await.unwrap();
        println!("  recovery of a generation: {:.1?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
        let begun = Instant::now();
        let (sealed, _) = opened.store.seal().await.unwrap();
        println!("  seal: {:.1?}", begun.elapsed());
        let store = Arc::clone(&opened.store);
        let begun = Instant::now();
        let dropping = tokio::spawn(async move { store.drop_generation(sealed).await });
        fill(&opened.store, &mut again, bytes, GENERATION_BYTES / 4).await;
        dropping.await.unwrap().unwrap();
        println!("  drop, meanwhile: {:.1?}", begun.elapsed());
        let (sealed, handle) = opened.store.seal().await.unwrap();
        let begun = Instant::now();
        opened.store.spill(sealed).await.unwrap();
        println!("  spill of a quarter: {:.1?}", begun.elapsed());
        drop(handle);
        println!("  disk: {} MiB", opened.store.usage().disk_bytes >> 20);
    }
}

/// What 1,000 generations of one small record each leave on the disk, and how long their seals
/// take: in one database, and in as many as there are to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, for minutes"]
async fn growth() {
    for max in [u64::MAX, GENERATIONS_MAX] {
        let root = match std::env::var_os("MVPS_BENCH_DIRECTORY") {
            Some(path) => tempfile::tempdir_in(path).unwrap(),
            None => tempfile::tempdir().unwrap(),
        };
        println!("at most {max} generations in a database");
        let store = FjallBufferStores::new(root.path()).of(max);
        let store = store.open(&image()).await.unwrap().store;
        let (mut seals, mut switches, mut most) = (Vec::new(), Vec::new(), 0);
        for lsn in 1..=1000 {
            store.commit(batch(lsn, 4096)).await.unwrap();
            let begun = Instant::now();
            let (sealed, _) = store.seal().await.unwrap();
            let is_switch = sealed.0.is_multiple_of(max);
            let times = if is_switch { &mut switches } else { &mut seals };
            times.push(begun.elapsed());
            if lsn % 25 == 0 {
                most = most.max(databases::bytes_below(root.path()));
            }
            store.drop_generation(sealed).await.unwrap();
            if lsn % 250 == 0 {
                println!("  after {lsn}, most so far: {most} bytes");
            }
        }
        println!("  seals: {}", Percentiles(seals));
        if !switches.is_empty() {
            println!("  with a new database: {}", Percentiles(switches));
        }
    }
}
