use bytes::Bytes;

use super::*;
use crate::engine::EngineError;
use crate::env::memory::testing::{TestClock, TestSpawner};
use crate::nbd::{
    ContextStatus, Errno, ExportName, Framing, Opening, PAYLOAD_MAX_BYTES, RequestedOptions,
    ServerRefusal, StatusExtent, ZeroFlags,
};
use crate::session::testing::{MemoryDisk, OneDisk};
use crate::session::{Ended, Order, serve};

fn name(text: &str) -> ExportName {
    ExportName::new(text.to_owned()).unwrap()
}

fn serve_disk(disk: &MemoryDisk) -> tokio::io::DuplexStream {
    let (stream, served) = tokio::io::duplex(64 * 1024);
    let admission = OneDisk::new(disk);
    tokio::spawn(async move { serve(served, &admission, &TestClock::start()).await });
    stream
}

async fn connect(disk: &MemoryDisk) -> Client {
    let stream = serve_disk(disk);
    Client::connect(stream, name("token"), Opening::Go, &TestSpawner)
        .await
        .unwrap()
}

fn bytes(byte: u8, length: usize) -> Bytes {
    Bytes::from(vec![byte; length])
}

#[tokio::test]
async fn what_is_written_is_read() {
    let disk = MemoryDisk::new();
    for opening in [
        Opening::Go,
        Opening::ExportName { no_zeroes: true },
        Opening::ExportName { no_zeroes: false },
    ] {
        let stream = serve_disk(&disk);
        let client = Client::connect(stream, name("token"), opening, &TestSpawner);
        let client = client.await.unwrap();
        client
            .write(1000, bytes(7, 3_000_000), false)
            .await
            .unwrap();
        assert_eq!(
            client.read(1000, 3_000_000).await.unwrap(),
            bytes(7, 3_000_000)
        );
        client.write_zeroes(2000, 10, true).await.unwrap();
        client.trim(0, 100_000, false).await.unwrap();
        client.flush().await.unwrap();
        let edge = client.read(1999, 12).await.unwrap();
        assert_eq!(edge[..], [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(client.read(5, 0).await.unwrap(), Bytes::new());
        client.disconnect().await;
    }
}

#[tokio::test]
async fn every_framing_carries_everything() {
    for framing in [Framing::Simple, Framing::Structured, Framing::Extended] {
        let disk = MemoryDisk::new();
        let options = RequestedOptions {
            framing,
            contexts: vec![
                "mvps:changed-since:7".to_owned(),
                "base:allocation".to_owned(),
            ],
            ..RequestedOptions::everything()
        };
        let stream = serve_disk(&disk);
        let client = Client::connect(stream, name("token"), options, &TestSpawner);
        let mut client = client.await.unwrap();
        let size = client.export().size_bytes;
        assert_eq!(client.export().framing, framing);
        client.write(8192, bytes(7, 4096), false).await.unwrap();
        // Data between holes, and a hole alone.
        let mut expected = vec![0; 12288];
        expected[4096..8192].fill(7);
        assert_eq!(client.read(4096, 12288).await.unwrap()[..], expected);
        assert_eq!(client.read(1 << 20, 5000).await.unwrap(), bytes(0, 5000));
        client.cache(0, size).await.unwrap();
        client.trim(4096, size - 4097, true).await.unwrap();
        let flags = ZeroFlags {
            fast: true,
            ..ZeroFlags::default()
        };
        client.write_zeroes_with(100, 8192, flags).await.unwrap();
        let slow = client.write_zeroes_with(100, 8000, flags).await;
        assert_eq!(slow, Err(ClientError::Failed(Errno::NotSupported)));
        let beyond = client.read(size - 1, 2).await;
        assert_eq!(beyond, Err(ClientError::Failed(Errno::Invalid)));
        let status = client.block_status(1, size - 1, false).await;
        if framing == Framing::Simple {
            assert_eq!(status, Err(ClientError::Failed(Errno::Invalid)));
            continue;
        }
        let extents = |flags: [u64; 3]| {
            let lengths = [8191, 4096, size - 12288];
            let pairs = lengths.into_iter().zip(flags);
            let extents = pairs.map(|(length_bytes, flags)| StatusExtent {
                length_bytes,
                flags,
            });
            extents.collect()
        };
        let status_of = |context, extents| ContextStatus { context, extents };
        let allocation = status_of(1, extents([3, 0, 3]));
        let changed = status_of(2, extents([0, 1, 0]));
        assert_eq!(status.unwrap(), [allocation, changed]);
        let one = client.block_status(8192, 4097, true).await.unwrap();
        assert!(one.iter().all(|status| status.extents.len() == 1));
        // What to compare with is found once.
        let found = |log: Vec<String>| log.iter().filter(|call| call.starts_with("find")).count();
        assert_eq!(found(disk.take_log()), 1);
        // A transaction sees its own.
        let transaction = client.begin().await.unwrap();
        transaction.write(0, bytes(9, 4096)).await.unwrap();
        let within = transaction.block_status(0, 8192, false).await.unwrap();
        assert_eq!(within[0].extents[0].flags, 0);
        transaction.roll_back().await.unwrap();
    }
}

#[tokio::test]
async fn contexts_are_listed() {
    let disk = MemoryDisk::new();
    let listed =
        |queries: Vec<String>| Client::list_contexts(serve_disk(&disk), name("token"), queries);
    let all = listed(vec![]).await.unwrap();
    assert_eq!(all, ["base:allocation", "mvps:changed-since:7"]);
    assert_eq!(listed(vec!["x:y".to_owned()]).await.unwrap(), [""; 0]);
    let refused = Client::list_contexts(serve_disk(&disk), name("wrong"), vec![]).await;
    assert!(matches!(refused, Err(ClientError::Refused(_))));
}

#[tokio::test]
async fn a_conflict_is_tried_again_at_last_with_the_lock() {
    let disk = MemoryDisk::new();
    let mut client = connect(&disk).await;
    for conflicts in [0, 2, OPTIMISTIC_ATTEMPTS] {
        disk.take_log();
        let mut attempts = 0;
        let done = client.transact(false, async |transaction| {
            let old = transaction.read(0, 1).await?[0];
            transaction.write(0, bytes(old + 1, 1)).await?;
            if attempts < conflicts {
                // The next call is the commit.
                disk.fail_next(EngineError::Conflict);
            }
            attempts += 1;
            Ok(())
        });
        done.await.unwrap();
        assert_eq!(attempts, conflicts + 1);
        let locked = disk.take_log().contains(&"lock".to_owned());
        assert_eq!(locked, conflicts == OPTIMISTIC_ATTEMPTS);
    }
    assert_eq!(disk.content(0, 1), [3]);
    let mut attempts = 0;
    let failed: Result<(), _> = client
        .transact(false, async |transaction| {
            attempts += 1;
            transaction.read(u64::MAX - 1, 1).await.map(drop)
        })
        .await;
    assert_eq!(
        (failed, attempts),
        (Err(ClientError::Failed(Errno::Invalid)), 1)
    );
}

#[tokio::test]
async fn many_requests_are_in_flight() {
    let disk = MemoryDisk::new();
    let client = connect(&disk).await;
    disk.set_running(false);
    let writes = (0..200).map(|index: u64| {
        let byte = u8::try_from(index % 251).unwrap();
        client.write(index * 4096, bytes(byte, 4096), false)
    });
    let release = async {
        tokio::task::yield_now().await;
        // A read overtakes all writes.
        assert_eq!(client.read(0, 1).await.unwrap()[..], [0]);
        disk.set_running(true);
    };
    let (results, ()) = tokio::join!(futures_util::future::join_all(writes), release);
    assert!(results.iter().all(Result::is_ok));
    let reads = (0..200).map(|index: u64| client.read(index * 4096, 4096));
    let contents = futures_util::future::join_all(reads).await;
    for (index, content) in contents.into_iter().enumerate() {
        assert_eq!(content.unwrap()[0], u8::try_from(index % 251).unwrap());
    }
}

#[tokio::test]
async fn transactions_commit_roll_back_and_conflict() {
    let disk = MemoryDisk::new();
    let mut client = connect(&disk).await;
    let transaction = client.begin().await.unwrap();
    transaction.write(0, bytes(1, 8192)).await.unwrap();
    transaction.delete_page(4096).await.unwrap();
    assert_eq!(transaction.read(4095, 2).await.unwrap()[..], [1, 0]);
    assert_eq!(disk.content(0, 1), [0]);
    transaction.lock().await.unwrap();
    transaction.commit(true).await.unwrap();
    assert_eq!(client.read(4095, 2).await.unwrap()[..], [1, 0]);

    let transaction = client.begin().await.unwrap();
    transaction.write_zeroes(0, 4096).await.unwrap();
    transaction.roll_back().await.unwrap();

    let transaction = client.begin().await.unwrap();
    transaction.trim(0, 4096).await.unwrap();
    drop(transaction);
    assert_eq!(client.read(0, 1).await.unwrap()[..], [1]);

    let transaction = client.begin().await.unwrap();
    disk.fail_next(EngineError::Conflict);
    assert_eq!(transaction.commit(false).await, Err(ClientError::Conflict));
    disk.take_log();
    client.begin().await.unwrap().commit(false).await.unwrap();
    assert_eq!(disk.take_log(), ["begin", "commit Buffered"]);
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let disk = MemoryDisk::new();
    let stream = serve_disk(&disk);
    let refused = Client::connect(stream, name("wrong"), Opening::Go, &TestSpawner).await;
    let refused = refused.unwrap_err();
    assert!(matches!(
        refused,
        ClientError::Refused(ServerRefusal::Policy { .. })
    ));
    let stream = serve_disk(&disk);
    let opening = Opening::ExportName { no_zeroes: true };
    let refused = Client::connect(stream, name("wrong"), opening, &TestSpawner).await;
    assert_eq!(refused.unwrap_err(), ClientError::Lost);
    let described = Client::describe(serve_disk(&disk), name("token"))
        .await
        .unwrap();
    assert_eq!(described.name.as_deref(), Some("disk0"));

    let client = connect(&disk).await;
    let maximum_bytes = PAYLOAD_MAX_BYTES;
    let too_large = Err(ClientError::TooLarge { maximum_bytes });
    assert_eq!(
        client.read(0, PAYLOAD_MAX_BYTES + 1).await.map(drop),
        too_large
    );
    let end = client.export().size_bytes;
    let beyond = client.write(end, bytes(1, 1), false).await;
    assert_eq!(beyond, Err(ClientError::Failed(Errno::NoSpace)));
}

#[tokio::test]
async fn a_lost_connection_fails_what_is_in_flight() {
    let disk = MemoryDisk::new();
    let (stream, served) = tokio::io::duplex(64 * 1024);
    let admission = OneDisk::new(&disk);
    let orders = admission.orders.clone();
    tokio::spawn(async move { serve(served, &admission, &TestClock::start()).await });
    let client = Client::connect(stream, name("token"), Opening::Go, &TestSpawner);
    let client = client.await.unwrap();
    disk.set_running(false);
    let cut = async {
        tokio::task::yield_now().await;
        orders.send_replace(Order::Stop);
    };
    let write = client.write(0, bytes(1, 4096), false);
    let (written, flushed, ()) = tokio::join!(write, client.flush(), cut);
    assert_eq!(
        (written, flushed),
        (Err(ClientError::Lost), Err(ClientError::Lost))
    );
    assert_eq!(client.read(0, 1).await, Err(ClientError::Lost));
}

#[tokio::test]
async fn an_abort_does_not_disconnect() {
    for (aborts, expected) in [(true, Ended::EndOfStream), (false, Ended::Disconnected)] {
        let (stream, served) = tokio::io::duplex(64 * 1024);
        let admission = OneDisk::new(&MemoryDisk::new());
        let session =
            tokio::spawn(async move { serve(served, &admission, &TestClock::start()).await });
        let client = Client::connect(stream, name("token"), Opening::Go, &TestSpawner);
        let client = client.await.unwrap();
        if aborts {
            client.abort().await;
        } else {
            drop(client);
        }
        assert_eq!(session.await.unwrap(), expected);
    }
}
