//! Clients that ask and never read.

use super::*;

#[tokio::test]
async fn a_client_that_never_reads_is_held_back() {
    let disk = MemoryDisk::new();
    let wire = Wire::attach(OneDisk::new(&disk)).await;
    let Wire {
        mut stream,
        session,
    } = wire;
    let one_mib: u32 = 1024 * 1024;
    let requests: Vec<_> = (0..200).map(|cookie| (cookie, read(0, one_mib))).collect();
    stream.write_all(&encoded(&requests)).await.unwrap();
    settle().await;
    let begun = disk.take_log().len() as u64;
    let limit = BYTES_IN_FLIGHT_MAX / u64::from(one_mib);
    assert!((limit - 1..=limit + 1).contains(&begun), "{begun}");
    let mut replies = vec![0; 200 * (one_mib as usize + SIMPLE_REPLY_BYTES)];
    stream.read_exact(&mut replies).await.unwrap();
    drop(stream);
    assert_eq!(session.await.unwrap(), Ended::EndOfStream);
}

/// Replies without content count, too.
#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_short_replies_is_held_back() {
    let disk = MemoryDisk::new();
    let Wire {
        mut stream,
        session,
    } = Wire::attach(OneDisk::new(&disk)).await;
    let requests: Vec<_> = (0..100_000)
        .map(|cookie| (cookie, Request::Flush))
        .collect();
    let limit = usize::try_from(PAYLOAD_EXEMPT_BYTES).unwrap() / SIMPLE_REPLY_BYTES;
    let bytes = encoded(&requests);
    let sending = tokio::time::timeout(Duration::from_secs(1), stream.write_all(&bytes));
    assert!(sending.await.is_err(), "the server takes everything");
    let begun = disk.take_log().len();
    assert!(begun < 3 * limit, "{begun} were answered, {limit} allowed");
    drop(stream);
    assert_ne!(session.await.unwrap(), Ended::Stalled);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_holds_no_more_than_its_image_may() {
    let disk = MemoryDisk::new();
    let budget = PayloadBudget::default();
    let admission = || OneDisk {
        budget: budget.clone(),
        ..OneDisk::new(&disk)
    };
    let mut deaf = Wire::attach(admission()).await;
    let reads: Vec<_> = (0..70).map(|cookie| (cookie, read(0, 1 << 20))).collect();
    deaf.send(&reads).await;
    settle().await;
    let begun = disk.take_log().len();
    assert!((60..=64).contains(&begun), "{begun} reads have begun");
    let mut other = Wire::attach(admission()).await;
    // A little at a time always gets through.
    for cookie in 0..10 {
        other.send(&[(cookie, read(4096, 4096))]).await;
        assert_eq!(other.reply().await.cookie, Cookie(cookie));
        other.stream.read_exact(&mut [0; 4096]).await.unwrap();
    }
    // More waits until the deaf one is cut off, and no longer.
    other.send(&[(99, read(0, 8 << 20))]).await;
    assert_eq!(other.reply().await.cookie, Cookie(99));
    assert_eq!(deaf.session.await.unwrap(), Ended::Stalled);
}

/// The largest request of the tests with a budget of that size.
const LARGEST: u32 = 4 << 20;

fn least_budget() -> PayloadBudget {
    PayloadBudget::new(PayloadLimits {
        write_bytes: u64::from(LARGEST),
        read_bytes: u64::from(LARGEST),
    })
}

#[tokio::test(start_paused = true)]
async fn the_least_budget_lets_the_largest_reads_through() {
    let disk = MemoryDisk::new();
    let mut wire = Wire::attach(OneDisk {
        budget: least_budget(),
        ..OneDisk::new(&disk)
    })
    .await;
    let lengths = [LARGEST / 2, LARGEST / 2, LARGEST, 4096, LARGEST];
    let requests: Vec<_> = (0..).zip(lengths.map(|bytes| read(0, bytes))).collect();
    wire.send(&requests).await;
    let mut content = vec![0; LARGEST as usize];
    for _ in lengths {
        let Cookie(cookie) = wire.reply().await.cookie;
        let bytes = lengths[usize::try_from(cookie).unwrap()] as usize;
        wire.stream.read_exact(&mut content[..bytes]).await.unwrap();
    }
}

/// What writes take is not asked of the budget of reads, and who waits for more than it needs by now
/// asks again.
#[tokio::test(start_paused = true)]
async fn writes_that_wait_keep_nobodys_reads() {
    let disk = MemoryDisk::new();
    let budget = least_budget();
    let admission = || OneDisk {
        budget: budget.clone(),
        ..OneDisk::new(&disk)
    };
    let mut both = Wire::attach(admission()).await;
    let mut other = Wire::attach(admission()).await;
    disk.set_running(false);
    both.send(&[(1, write(0, LARGEST))]).await;
    let mut content = vec![0; LARGEST as usize];
    for is_both in [true, false, true] {
        let wire = if is_both { &mut both } else { &mut other };
        wire.send(&[(2, read(0, LARGEST))]).await;
        assert_eq!(wire.reply().await.cookie, Cookie(2));
        wire.stream.read_exact(&mut content).await.unwrap();
    }
    disk.set_running(true);
    assert_eq!(both.reply().await.cookie, Cookie(1));
}
