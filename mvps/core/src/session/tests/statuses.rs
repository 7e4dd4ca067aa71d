//! What BLOCK_STATUS may take of memory, and what is answered where there is little.

use super::*;
use crate::env::let_others_run;
use crate::session::limits::{IMAGE_READS_MAX_BYTES, PAYLOAD_EXEMPT_BYTES, WALKS_PER_TURN};
use crate::session::testing::{PAGE_BYTES, SIZE_BYTES};

const HEADER_BYTES: usize = 32;
const EXTENT_BYTES: usize = 16;

/// As many extents as there can be: every other page is set.
const EXTENTS: usize = SIZE_BYTES / PAGE_BYTES;

/// The status of the whole disk, `count` times.
fn statuses(count: u64, one: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for cookie in 0..count {
        let request = Request::BlockStatus {
            offset: 0,
            length: SIZE_BYTES as u64,
            one,
        };
        assert!(request.encode(Framing::Extended, Cookie(cookie), &mut bytes));
    }
    bytes
}

impl Wire {
    /// How many extents the next reply has.
    async fn extents(&mut self) -> usize {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header).await.unwrap();
        let length = u64::from_be_bytes(*header.last_chunk().unwrap());
        let mut body = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut body).await.unwrap();
        (body.len() - 8) / EXTENT_BYTES
    }
}

#[tokio::test(start_paused = true)]
async fn clients_that_never_read_hold_no_more_statuses_than_their_image_may() {
    let disk = MemoryDisk::new();
    disk.fragment();
    let budget = PayloadBudget::default();
    let admission = || OneDisk {
        budget: budget.clone(),
        ..OneDisk::new(&disk)
    };
    let mut deaf = Vec::new();
    for _ in 0..4 {
        let mut wire = Wire::attach_with(admission(), RequestedOptions::everything()).await;
        wire.stream.write_all(&statuses(1500, false)).await.unwrap();
        settle().await;
        deaf.push(wire);
    }
    // Short ones, of which there are few, are counted as if they were whole.
    let held = (disk.take_log().len() * EXTENTS * EXTENT_BYTES) as u64;
    let beside = 2 * (PAYLOAD_EXEMPT_BYTES + PIPE_BYTES as u64);
    let most = IMAGE_READS_MAX_BYTES + 4 * beside;
    assert!(held <= most, "{held} bytes of statuses");
    // Who wants to know gets less for an answer, and at once.
    let began = tokio::time::Instant::now();
    let mut other = Wire::attach_with(admission(), RequestedOptions::everything()).await;
    other.stream.write_all(&statuses(1, false)).await.unwrap();
    let short = other.extents().await;
    assert!((100..EXTENTS).contains(&short), "{short} extents");
    other.stream.write_all(&statuses(1, true)).await.unwrap();
    assert_eq!(other.extents().await, 1);
    assert_eq!(began.elapsed(), Duration::ZERO);
    for wire in deaf {
        assert_eq!(wire.session.await.unwrap(), Ended::Stalled);
    }
    other.stream.write_all(&statuses(1, false)).await.unwrap();
    assert_eq!(other.extents().await, EXTENTS);
}

/// A task that goes through the map for hundreds of requests at a time stops all others meanwhile.
#[tokio::test]
async fn statuses_give_way_to_other_tasks() {
    let disk = MemoryDisk::new();
    let mut wire = Wire::attach_with(OneDisk::new(&disk), RequestedOptions::everything()).await;
    wire.stream.write_all(&statuses(100, true)).await.unwrap();
    let mut begun = Vec::new();
    let other = tokio::spawn(async move {
        while begun.iter().sum::<usize>() < 100 {
            // Unlike `yield_now`, which lets a task go on that has just had its turn.
            let_others_run().await;
            begun.push(disk.take_log().len());
        }
        begun
    });
    let begun = other.await.unwrap();
    // The other one's first turn may come after two of these.
    let most = begun.iter().max().unwrap();
    assert!(*most <= 2 * WALKS_PER_TURN, "{begun:?}");
}

/// More of them than one turn has, then a disconnect, then nothing.
#[tokio::test]
async fn statuses_that_wait_for_their_turn_are_answered_before_the_end() {
    let disk = MemoryDisk::new();
    let mut wire = Wire::attach_with(OneDisk::new(&disk), RequestedOptions::everything()).await;
    let mut sent = statuses(3 * WALKS_PER_TURN as u64, true);
    let disconnect = Request::Disconnect;
    assert!(disconnect.encode(Framing::Extended, Cookie(99), &mut sent));
    wire.stream.write_all(&sent).await.unwrap();
    wire.stream.shutdown().await.unwrap();
    for _ in 0..3 * WALKS_PER_TURN {
        assert_eq!(wire.extents().await, 1);
    }
    assert_eq!(wire.ended().await, Ended::Disconnected);
}
