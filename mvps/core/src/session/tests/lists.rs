//! What answers a client that does not read them may leave behind while it negotiates.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::nbd::Since;

const SNAPSHOTS: usize = 2000;

/// The client's flags, and LIST_META_CONTEXT of the export "token", so many times.
fn lists(count: usize) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 3];
    for _ in 0..count {
        bytes.extend_from_slice(b"IHAVEOPT");
        bytes.extend_from_slice(&9_u32.to_be_bytes());
        bytes.extend_from_slice(&13_u32.to_be_bytes());
        bytes.extend_from_slice(&5_u32.to_be_bytes());
        bytes.extend_from_slice(b"token");
        bytes.extend_from_slice(&0_u32.to_be_bytes());
    }
    bytes
}

/// An image of which there are many snapshots.
struct ManySnapshots {
    of: OneDisk,
    asked: Arc<AtomicUsize>,
}

impl Admission for ManySnapshots {
    type Disk = MemoryDisk;

    async fn describe(&self, name: &ExportName) -> Result<Export, Refusal> {
        self.of.describe(name).await
    }

    async fn contexts(&self, request: &ContextsRequest) -> Result<Vec<ContextName>, Refusal> {
        self.describe(&request.name).await?;
        self.asked.fetch_add(1, Ordering::Relaxed);
        let snapshot = |number| Since::Snapshot(format!("snapshot-{number:060}"));
        let names = (0..SNAPSHOTS).map(|number| ContextName::ChangedSince(snapshot(number)));
        Ok(names.collect())
    }

    async fn attach(&self, name: &ExportName) -> Result<Admitted<MemoryDisk>, Refusal> {
        self.of.attach(name).await
    }
}

#[tokio::test(start_paused = true)]
async fn lists_that_nobody_reads_do_not_pile_up() {
    let asked = Arc::new(AtomicUsize::new(0));
    let admission = ManySnapshots {
        of: OneDisk::new(&MemoryDisk::new()),
        asked: Arc::clone(&asked),
    };
    let (mut stream, served) = tokio::io::duplex(PIPE_BYTES);
    let session = tokio::spawn(async move { serve(served, &admission, &TestClock::start()).await });
    stream.write_all(&lists(100)).await.unwrap();
    settle().await;
    let begun = asked.load(Ordering::Relaxed);
    assert!(begun <= 2, "{begun} lists wait to be read");
    // They come as they are read.
    let list_bytes = SNAPSHOTS * (20 + 4 + 19 + 69) + 20;
    let mut all = vec![0; 18 + 100 * list_bytes];
    stream.read_exact(&mut all).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 100);
    drop(stream);
    assert_eq!(session.await.unwrap(), Ended::EndOfStream);
}
