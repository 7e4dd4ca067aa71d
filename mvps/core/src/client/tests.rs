use bytes::Bytes;

use super::*;
use crate::engine::EngineError;
use crate::env::memory::testing::{TestClock, TestSpawner};
use crate::nbd::{Errno, ExportName, Opening, PAYLOAD_MAX_BYTES, ServerRefusal};
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
async fn an_abort_says_no_goodbye() {
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
