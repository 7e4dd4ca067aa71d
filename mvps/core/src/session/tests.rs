use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use super::connection::{Admission, Admitted, Order, serve};
use super::ended::Ended;
use super::limits::{
    BYTES_IN_FLIGHT_MAX, HANDSHAKE_TIME_MAX, PAYLOAD_EXEMPT_BYTES, REQUESTS_IN_FLIGHT_MAX,
};
use super::payload_budget::{PayloadBudget, PayloadLimits};
use super::testing::{MemoryDisk, OneDisk};
use crate::engine::{Durability, EngineError};
use crate::env::memory::ManualClock;
use crate::env::memory::testing::TestClock;
use crate::nbd::{
    Broken, ClientNegotiation, ClientStep, ContextName, ContextsRequest, Cookie, Errno, Export,
    ExportName, Framing, Opening, REQUEST_BYTES, Refusal, Request, RequestedOptions,
    SIMPLE_REPLY_BYTES, SimpleReply, ZeroFlags,
};

mod lists;
mod stalls;
mod statuses;
mod unread;

const PIPE_BYTES: usize = 64 * 1024;

fn token() -> ExportName {
    ExportName::new("token".to_owned()).unwrap()
}

/// A client that sends exactly what a test says.
struct Wire {
    stream: DuplexStream,
    session: JoinHandle<Ended>,
}

impl Wire {
    async fn attach(admission: OneDisk) -> Self {
        Self::attach_with(admission, Opening::Go).await
    }

    async fn attach_with(admission: OneDisk, options: impl Into<RequestedOptions>) -> Self {
        let (stream, served) = tokio::io::duplex(PIPE_BYTES);
        let session =
            tokio::spawn(async move { serve(served, &admission, &TestClock::start()).await });
        let mut wire = Self { stream, session };
        let mut negotiation = ClientNegotiation::new(token(), options);
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        while let ClientStep::NeedMore = negotiation.step(&mut input, &mut output).unwrap() {
            wire.stream.write_all(&output).await.unwrap();
            output.clear();
            assert_ne!(wire.stream.read_buf(&mut input).await.unwrap(), 0);
        }
        wire
    }

    async fn send(&mut self, requests: &[(u64, Request)]) {
        self.stream.write_all(&encoded(requests)).await.unwrap();
    }

    async fn reply(&mut self) -> SimpleReply {
        let mut header = [0; SIMPLE_REPLY_BYTES];
        self.stream.read_exact(&mut header).await.unwrap();
        SimpleReply::decode(&header).unwrap()
    }

    /// Cookies and results of the next `count` replies, which have no payload.
    async fn replies(&mut self, count: usize) -> Vec<(u64, Result<(), Errno>)> {
        let mut replies = Vec::new();
        for _ in 0..count {
            let reply = self.reply().await;
            replies.push((reply.cookie.0, reply.result));
        }
        replies
    }

    async fn ended(self) -> Ended {
        drop(self.stream);
        self.session.await.unwrap()
    }
}

/// Requests with payloads of 0xaa.
fn encoded(requests: &[(u64, Request)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (cookie, request) in requests {
        assert!(request.encode(Framing::Simple, Cookie(*cookie), &mut bytes));
        bytes.resize(bytes.len() + request.payload_bytes() as usize, 0xaa);
    }
    bytes
}

fn write(offset: u64, length: u32) -> Request {
    let fua = false;
    Request::Write {
        offset,
        length,
        fua,
    }
}

fn read(offset: u64, length: u32) -> Request {
    let whole = false;
    Request::Read {
        offset,
        length,
        whole,
    }
}

/// Lets the session go as far as it can.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn reads_overtake_a_write_that_waits() {
    let disk = MemoryDisk::new();
    let mut wire = Wire::attach(OneDisk::new(&disk)).await;
    disk.set_running(false);
    wire.send(&[
        (1, write(0, 4096)),
        (2, read(8192, 16)),
        (3, Request::Flush),
    ])
    .await;
    assert_eq!(wire.reply().await.cookie, Cookie(2));
    let mut payload = [1; 16];
    wire.stream.read_exact(&mut payload).await.unwrap();
    assert_eq!(payload, [0; 16]);
    disk.set_running(true);
    assert_eq!(wire.replies(2).await, [(1, Ok(())), (3, Ok(()))]);
    assert_eq!(disk.content(0, 4096), [0xaa; 4096]);
    wire.send(&[(4, Request::Disconnect)]).await;
    assert_eq!(wire.ended().await, Ended::Disconnected);
}

#[tokio::test]
async fn flags_become_promises() {
    for (durability, expected) in [
        (Durability::Local, "Durable(Local)"),
        (Durability::ObjectStore, "Durable(ObjectStore)"),
    ] {
        let disk = MemoryDisk::new();
        let admission = OneDisk {
            durability,
            ..OneDisk::new(&disk)
        };
        let mut wire = Wire::attach(admission).await;
        let (offset, length, fua) = (512, 1024, true);
        wire.send(&[
            (
                1,
                Request::Write {
                    offset,
                    length,
                    fua,
                },
            ),
            (
                2,
                Request::Trim {
                    offset,
                    length: u64::from(length),
                    fua,
                },
            ),
            (
                3,
                Request::WriteZeroes {
                    offset,
                    length: u64::from(length),
                    flags: ZeroFlags {
                        fua,
                        no_hole: true,
                        fast: false,
                    },
                },
            ),
            (4, write(offset, length)),
            (5, Request::Flush),
        ])
        .await;
        wire.replies(5).await;
        let log = [
            format!("write 512+1024 {expected}"),
            format!("trim 512+1024 {expected}"),
            format!("zero 512+1024 {expected}"),
            "write 512+1024 Buffered".to_owned(),
            format!("flush {durability:?}"),
        ];
        assert_eq!(disk.take_log(), log);
    }
}

#[tokio::test]
async fn a_pipelined_transaction_takes_effect_in_arrival_order() {
    let disk = MemoryDisk::new();
    let mut wire = Wire::attach(OneDisk::new(&disk)).await;
    disk.set_running(false);
    let fua_write = Request::Write {
        offset: 8192,
        length: 512,
        fua: true,
    };
    wire.send(&[
        (1, write(0, 512)),
        (2, Request::Begin),
        (3, write(4096, 512)),
        (4, fua_write),
        (5, Request::Lock),
        (6, write(12288, 0)),
        (7, write(12289, 0)),
        (8, Request::Commit { fua: false }),
        (9, write(16384, 0)),
        (10, write(16384, 512)),
    ])
    .await;
    settle().await;
    // BEGIN waits for the write before it, everything else for BEGIN.
    assert_eq!(disk.take_log(), ["write 0+512 Buffered"]);
    disk.set_running(true);
    let replies = wire.replies(10).await;
    let mut cookies: Vec<_> = replies.iter().map(|(cookie, _)| *cookie).collect();
    cookies.sort_unstable();
    assert_eq!(cookies, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert!(
        replies.iter().all(|(_, result)| result.is_ok()),
        "{replies:?}"
    );
    let log = [
        "begin",
        "txn write 4096+512",
        "txn write 8192+512",
        "lock",
        "txn trim 12288+4096",
        "commit Durable(Local)",
        "write 16384+512 Buffered",
    ];
    assert_eq!(disk.take_log(), log);
}

#[tokio::test]
async fn a_commit_waits_for_the_requests_before_it() {
    let disk = MemoryDisk::new();
    let mut wire = Wire::attach(OneDisk::new(&disk)).await;
    wire.send(&[(1, Request::Begin)]).await;
    wire.replies(1).await;
    disk.set_running(false);
    wire.send(&[(2, write(0, 512)), (3, Request::Commit { fua: false })])
        .await;
    settle().await;
    assert_eq!(disk.take_log(), ["begin", "txn write 0+512"]);
    disk.set_running(true);
    assert_eq!(wire.replies(2).await, [(2, Ok(())), (3, Ok(()))]);
    assert_eq!(disk.content(0, 512), [0xaa; 512]);
}

#[tokio::test]
async fn a_transaction_that_lacks_a_change_does_not_commit() {
    let full = EngineError::TransactionTooLarge {
        limit: "bytes written",
    };
    let aborted = EngineError::Aborted { reason: "" };
    let beyond_end = write(u64::MAX - 600, 512);
    // (the change that fails, how the engine fails it, its errno, the commit's)
    let cases = [
        (
            write(0, 512),
            Some(full),
            Errno::OutOfMemory,
            Errno::Invalid,
        ),
        (
            write(0, 512),
            Some(aborted),
            Errno::Permission,
            Errno::Permission,
        ),
        (beyond_end, None, Errno::NoSpace, Errno::Invalid),
    ];
    for (change, failure, errno, commit_errno) in cases {
        let disk = MemoryDisk::new();
        let mut wire = Wire::attach(OneDisk::new(&disk)).await;
        wire.send(&[(1, Request::Begin)]).await;
        wire.replies(1).await;
        if let Some(failure) = failure {
            disk.fail_next(failure);
        }
        // In one piece, so that no reply was seen when the commit is sent.
        let commit = Request::Commit { fua: false };
        wire.send(&[(2, change), (3, write(4096, 512)), (4, commit), (5, commit)])
            .await;
        let mut replies = wire.replies(4).await;
        replies.sort_by_key(|(cookie, _)| *cookie);
        let expected = [
            (2, Err(errno)),
            (3, Ok(())),
            (4, Err(commit_errno)),
            (5, Err(Errno::Invalid)),
        ];
        assert_eq!(replies, expected);
        assert_eq!(disk.content(4096, 1), [0]);
        assert!(disk.take_log().contains(&"rollback".to_owned()));
    }
    // A read that failed is no part of it.
    let disk = MemoryDisk::new();
    let mut wire = Wire::attach(OneDisk::new(&disk)).await;
    wire.send(&[(1, Request::Begin)]).await;
    wire.replies(1).await;
    let reason = String::new();
    disk.fail_next(EngineError::Unreadable { reason });
    let commit = Request::Commit { fua: false };
    wire.send(&[(2, read(0, 512)), (3, write(0, 512)), (4, commit)])
        .await;
    let replies = wire.replies(3).await;
    assert_eq!(replies, [(2, Err(Errno::Io)), (3, Ok(())), (4, Ok(()))]);
}

#[tokio::test]
async fn commands_out_of_place_are_invalid() {
    let disk = MemoryDisk::new();
    let mut wire = Wire::attach(OneDisk::new(&disk)).await;
    let invalid = Err(Errno::Invalid);
    wire.send(&[
        (1, Request::Commit { fua: true }),
        (2, Request::Rollback),
        (3, Request::Lock),
        (4, Request::Begin),
        (5, Request::Begin),
        (6, Request::Rollback),
        (7, Request::Commit { fua: false }),
    ])
    .await;
    let expected = [
        (1, invalid),
        (2, invalid),
        (3, invalid),
        (4, Ok(())),
        (5, invalid),
        (6, Ok(())),
        (7, invalid),
    ];
    assert_eq!(wire.replies(7).await, expected);
    assert_eq!(disk.take_log(), ["begin", "rollback"]);
}

#[tokio::test]
async fn engine_errors_become_errnos() {
    let reason = String::new;
    let limit = "bytes written";
    let cases = [
        (EngineError::Fenced { reason: reason() }, Errno::Shutdown),
        (EngineError::Poisoned { reason: reason() }, Errno::Shutdown),
        (EngineError::Closed, Errno::Shutdown),
        (EngineError::Corrupt { reason: reason() }, Errno::Io),
        (EngineError::Unreadable { reason: reason() }, Errno::Io),
        (EngineError::Invalid { reason: "" }, Errno::Invalid),
        (EngineError::Conflict, Errno::Permission),
        (EngineError::Aborted { reason: "" }, Errno::Permission),
        (
            EngineError::TransactionTooLarge { limit },
            Errno::OutOfMemory,
        ),
    ];
    let disk = MemoryDisk::new();
    let mut wire = Wire::attach(OneDisk::new(&disk)).await;
    for (error, errno) in cases {
        disk.fail_next(error);
        wire.send(&[(1, read(0, 4096))]).await;
        assert_eq!(wire.replies(1).await, [(1, Err(errno))]);
    }
    // After a conflict on COMMIT the transaction is gone; after one on LOCK it is not.
    wire.send(&[(1, Request::Begin)]).await;
    wire.replies(1).await;
    for (request, next) in [
        (Request::Lock, Ok(())),
        (Request::Commit { fua: false }, Err(Errno::Invalid)),
    ] {
        disk.fail_next(EngineError::Conflict);
        wire.send(&[(2, request)]).await;
        assert_eq!(wire.replies(1).await, [(2, Err(Errno::Permission))]);
        wire.send(&[(3, Request::Lock)]).await;
        assert_eq!(wire.replies(1).await, [(3, next)]);
    }
}

#[tokio::test]
async fn malformed_requests_leave_the_stream_in_step() {
    let disk = MemoryDisk::new();
    let mut wire = Wire::attach(OneDisk::new(&disk)).await;
    let oversize = 33 * 1024 * 1024;
    let requests = [
        (1, write(u64::MAX - 10, 3000)),
        (2, write(0, oversize)),
        (3, read(0, oversize)),
        (4, write(0, 512)),
    ];
    let bytes = encoded(&requests);
    let (mut reader, mut writer) = tokio::io::split(wire.stream);
    let writing = tokio::spawn(async move {
        writer.write_all(&bytes).await.unwrap();
        writer
    });
    let mut replies = vec![0; 4 * SIMPLE_REPLY_BYTES];
    reader.read_exact(&mut replies).await.unwrap();
    let replies: Vec<_> = replies
        .chunks(SIMPLE_REPLY_BYTES)
        .map(|reply| SimpleReply::decode(reply.try_into().unwrap()).unwrap())
        .map(|reply| (reply.cookie.0, reply.result))
        .collect();
    let expected = [
        (1, Err(Errno::NoSpace)),
        (2, Err(Errno::NoSpace)),
        (3, Err(Errno::Invalid)),
        (4, Ok(())),
    ];
    assert_eq!(replies, expected);
    assert_eq!(disk.take_log(), ["write 0+512 Buffered"]);
    wire.stream = reader.unsplit(writing.await.unwrap());

    wire.stream.write_all(&[0; REQUEST_BYTES]).await.unwrap();
    assert_eq!(
        wire.ended().await,
        Ended::Broken(Broken::RequestMagic { magic: 0 })
    );
}

#[tokio::test]
async fn read_only_exports_refuse_changes() {
    let disk = MemoryDisk::new();
    let admission = OneDisk {
        read_only: true,
        ..OneDisk::new(&disk)
    };
    let mut wire = Wire::attach(admission).await;
    wire.send(&[(1, write(0, 512)), (2, Request::Flush), (3, Request::Begin)])
        .await;
    let replies = wire.replies(3).await;
    assert_eq!(
        replies,
        [(1, Err(Errno::Permission)), (2, Ok(())), (3, Ok(()))]
    );
}

#[tokio::test]
async fn every_byte_may_come_alone() {
    let disk = MemoryDisk::new();
    let mut wire = Wire::attach(OneDisk::new(&disk)).await;
    for byte in encoded(&[
        (1, write(100, 50)),
        (2, write(u64::MAX, 9)),
        (3, Request::Flush),
    ]) {
        wire.stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let replies = wire.replies(3).await;
    assert_eq!(
        replies,
        [(1, Ok(())), (2, Err(Errno::NoSpace)), (3, Ok(()))]
    );
    assert_eq!(disk.content(99, 52)[..2], [0, 0xaa]);
}

#[tokio::test]
async fn losing_the_client_rolls_back() {
    let disk = MemoryDisk::new();
    let mut wire = Wire::attach(OneDisk::new(&disk)).await;
    wire.send(&[(1, Request::Begin)]).await;
    wire.replies(1).await;
    disk.set_running(false);
    wire.send(&[(2, write(0, 512)), (3, Request::Lock)]).await;
    settle().await;
    assert_eq!(wire.ended().await, Ended::EndOfStream);
    disk.set_running(true);
    settle().await;
    assert_eq!(
        disk.take_log(),
        ["begin", "txn write 0+512", "lock", "rollback"]
    );
    assert_eq!(disk.content(0, 512), [0; 512]);
}

#[tokio::test]
async fn a_disconnect_waits_for_replies() {
    let disk = MemoryDisk::new();
    let mut wire = Wire::attach(OneDisk::new(&disk)).await;
    disk.set_running(false);
    wire.send(&[
        (1, write(0, 512)),
        (2, Request::Disconnect),
        (3, write(0, 512)),
    ])
    .await;
    settle().await;
    assert!(!wire.session.is_finished());
    disk.set_running(true);
    assert_eq!(wire.replies(1).await, [(1, Ok(()))]);
    assert_eq!(wire.stream.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(wire.ended().await, Ended::Disconnected);
    assert_eq!(disk.take_log().len(), 1);
}

/// A client may close its side before it reads: what it sent may wait for the budget or its turn by
/// then.
#[tokio::test]
async fn a_disconnect_that_waits_counts_when_the_stream_ends() {
    let disk = MemoryDisk::new();
    let mut wire = Wire::attach(OneDisk::new(&disk)).await;
    wire.send(&[(1, Request::Begin)]).await;
    wire.replies(1).await;
    disk.set_running(false);
    let commit = Request::Commit { fua: false };
    wire.send(&[(2, write(0, 512)), (3, commit), (4, write(512, 512))])
        .await;
    wire.send(&[(5, Request::Disconnect)]).await;
    wire.stream.shutdown().await.unwrap();
    settle().await;
    assert!(!wire.session.is_finished());
    disk.set_running(true);
    let replies = wire.replies(3).await;
    assert_eq!(replies, [(2, Ok(())), (3, Ok(())), (4, Ok(()))]);
    assert_eq!(wire.ended().await, Ended::Disconnected);
    assert_eq!(disk.content(0, 1024), [0xaa; 1024]);
}

#[tokio::test]
async fn requests_in_flight_are_bounded() {
    let disk = MemoryDisk::new();
    let mut wire = Wire::attach(OneDisk::new(&disk)).await;
    disk.set_running(false);
    let requests: Vec<_> = (0..1000).map(|cookie| (cookie, Request::Flush)).collect();
    wire.send(&requests).await;
    settle().await;
    assert_eq!(disk.take_log().len(), REQUESTS_IN_FLIGHT_MAX);
    disk.set_running(true);
    assert_eq!(wire.replies(1000).await.len(), 1000);
}

#[tokio::test]
async fn orders_are_obeyed() {
    let disk = MemoryDisk::new();
    for (order, replies_come, expected) in [
        (Order::Drain, true, Ended::Drained),
        (Order::Stop, false, Ended::Stopped),
    ] {
        let admission = OneDisk::new(&disk);
        let orders = admission.orders.clone();
        let mut wire = Wire::attach(admission).await;
        disk.set_running(false);
        wire.send(&[(1, write(0, 512))]).await;
        settle().await;
        orders.send_replace(order);
        settle().await;
        disk.set_running(true);
        if replies_come {
            assert_eq!(wire.replies(1).await, [(1, Ok(()))]);
        }
        assert_eq!(wire.stream.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(wire.ended().await, expected);
    }
}

#[tokio::test]
async fn slow_handshakes_end() {
    let clock = Arc::new(ManualClock::new());
    let (mut stream, served) = tokio::io::duplex(PIPE_BYTES);
    let session = tokio::spawn({
        let clock = Arc::clone(&clock);
        async move { serve(served, &OneDisk::new(&MemoryDisk::new()), &*clock).await }
    });
    for byte in [0, 0, 0] {
        settle().await;
        clock.advance(HANDSHAKE_TIME_MAX / 4);
        settle().await;
        assert!(!session.is_finished());
        stream.write_all(&[byte]).await.unwrap();
    }
    settle().await;
    clock.advance(HANDSHAKE_TIME_MAX / 4 + Duration::from_millis(1));
    assert_eq!(session.await.unwrap(), Ended::HandshakeTooSlow);
}

/// Never answers.
struct Silent;

impl Admission for Silent {
    type Disk = MemoryDisk;

    async fn describe(&self, _: &ExportName) -> Result<Export, Refusal> {
        std::future::pending().await
    }

    async fn contexts(&self, _: &ContextsRequest) -> Result<Vec<ContextName>, Refusal> {
        std::future::pending().await
    }

    async fn attach(&self, _: &ExportName) -> Result<Admitted<MemoryDisk>, Refusal> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_its_export_is_opened_is_noticed() {
    let (mut stream, served) = tokio::io::duplex(PIPE_BYTES);
    let session = tokio::spawn(async move { serve(served, &Silent, &TestClock::start()).await });
    let mut negotiation = ClientNegotiation::new(token(), Opening::Go);
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    loop {
        let step = negotiation.step(&mut input, &mut output).unwrap();
        assert!(matches!(step, ClientStep::NeedMore));
        stream.write_all(&output).await.unwrap();
        output.clear();
        let answer = stream.read_buf(&mut input);
        if tokio::time::timeout(HANDSHAKE_TIME_MAX * 2, answer)
            .await
            .is_err()
        {
            break;
        }
    }
    assert!(!session.is_finished());
    drop(stream);
    assert_eq!(session.await.unwrap(), Ended::EndOfStream);
}
