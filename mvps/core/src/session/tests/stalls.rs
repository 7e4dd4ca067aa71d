//! Clients on which the connection waits.

use super::*;
use crate::session::limits::{STALL_PROGRESS_MIN_BYTES, STALL_TIME_MAX, UNREAD_SLICES_TIME_MAX};

const PROGRESS: usize = STALL_PROGRESS_MIN_BYTES as usize;

async fn attached() -> Wire {
    Wire::attach(OneDisk::new(&MemoryDisk::new())).await
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stalls_within_a_payload_is_cut_off_and_a_slow_one_is_not() {
    let whole = encoded(&[(1, write(0, 4 * PROGRESS as u32))]);
    let mut half = attached().await;
    for part in whole[..3 * PROGRESS].chunks(PROGRESS) {
        half.stream.write_all(part).await.unwrap();
        tokio::time::sleep(STALL_TIME_MAX * 3 / 4).await;
    }
    assert!(!half.session.is_finished());
    assert_eq!(half.session.await.unwrap(), Ended::Stalled);
}

#[tokio::test(start_paused = true)]
async fn a_byte_now_and_then_is_no_progress() {
    let mut wire = attached().await;
    let header = &encoded(&[(1, write(0, 1 << 20))])[..REQUEST_BYTES];
    wire.stream.write_all(header).await.unwrap();
    let mut sent = 0;
    while !wire.session.is_finished() {
        // The session may end while this waits.
        let _ = wire.stream.write_all(&[0xaa]).await;
        tokio::time::sleep(STALL_TIME_MAX / 8).await;
        sent += 1;
        assert!(sent < 24, "it goes on for ever");
    }
    assert_eq!(wire.session.await.unwrap(), Ended::Stalled);
}

#[tokio::test(start_paused = true)]
async fn a_header_that_is_not_ended_is_a_stall_and_silence_between_requests_is_none() {
    let mut wire = attached().await;
    tokio::time::sleep(STALL_TIME_MAX * 10).await;
    let requests = encoded(&[(1, Request::Flush), (2, Request::Flush)]);
    let (first, rest) = requests.split_at(REQUEST_BYTES + 13);
    wire.stream.write_all(first).await.unwrap();
    assert_eq!(wire.reply().await.cookie, Cookie(1));
    tokio::time::sleep(STALL_TIME_MAX * 3 / 4).await;
    wire.stream.write_all(rest).await.unwrap();
    assert_eq!(wire.reply().await.cookie, Cookie(2));
    tokio::time::sleep(STALL_TIME_MAX * 10).await;
    wire.stream.write_all(first).await.unwrap();
    assert_eq!(wire.session.await.unwrap(), Ended::Stalled);
}

#[tokio::test(start_paused = true)]
async fn who_reads_no_replies_is_cut_off() {
    let mut deaf = attached().await;
    let read = read(0, 1 << 20);
    deaf.send(&[(1, read), (2, read)]).await;
    assert_eq!(deaf.session.await.unwrap(), Ended::Stalled);
}

/// What the client sends is no sign that it takes anything.
#[tokio::test(start_paused = true)]
async fn who_reads_no_replies_is_cut_off_although_it_writes() {
    let mut deaf = attached().await;
    deaf.send(&[(1, read(0, 1 << 20))]).await;
    let part = encoded(&[(2, write(0, PROGRESS as u32))]);
    for _ in 0..16 {
        if deaf.session.is_finished() {
            break;
        }
        // The session may end while this waits.
        let _ = deaf.stream.write_all(&part).await;
        tokio::time::sleep(STALL_TIME_MAX / 4).await;
    }
    assert!(deaf.session.is_finished(), "it goes on for ever");
    assert_eq!(deaf.session.await.unwrap(), Ended::Stalled);
}

#[tokio::test(start_paused = true)]
async fn who_reads_slowly_is_not_cut_off() {
    let mut slow = attached().await;
    slow.send(&[(1, read(0, 4 << 20))]).await;
    assert_eq!(slow.reply().await.cookie, Cookie(1));
    let mut part = vec![0; PROGRESS];
    for _ in 0..4 {
        tokio::time::sleep(STALL_TIME_MAX * 3 / 4).await;
        slow.stream.read_exact(&mut part).await.unwrap();
    }
    assert_eq!(slow.ended().await, Ended::EndOfStream);
}

/// A reply is a slice of what it was read from, which may be much larger.
#[tokio::test(start_paused = true)]
async fn replies_that_nobody_reads_keep_nothing_else_in_memory() {
    let disk = MemoryDisk::new();
    let mut deaf = Wire::attach(OneDisk::new(&disk)).await;
    deaf.send(&[(1, write(0, 1 << 20))]).await;
    deaf.replies(1).await;
    let reads: Vec<_> = (0..100).map(|cookie| (cookie, read(0, 12 << 10))).collect();
    deaf.send(&reads).await;
    settle().await;
    assert!(disk.lent() > 0, "replies are sent without a copy");
    tokio::time::sleep(UNREAD_SLICES_TIME_MAX * 2).await;
    assert_eq!(disk.lent(), 0);
    for _ in 0..100 {
        deaf.reply().await;
        let mut content = vec![0; 12 << 10];
        deaf.stream.read_exact(&mut content).await.unwrap();
        assert!(content.iter().all(|byte| *byte == 0xaa));
    }
    assert_eq!(deaf.ended().await, Ended::EndOfStream);
}
