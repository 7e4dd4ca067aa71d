//! Exports that only read: a snapshot, for several clients, beside the image's writer.

use mvps_core::client::{Client, ClientError};
use mvps_core::nbd::Errno;

use crate::harness::{MIB, Site};

const PAGE: u64 = 4096;

async fn write(client: &Client, page: u64, byte: u8) {
    let content = vec![byte; 4096].into();
    let written = client.write(page * PAGE, content, false).await;
    written.expect("a write");
}

async fn read(client: &Client, page: u64) -> u8 {
    let content = client.read(page * PAGE, 4096).await.expect("a read");
    assert!(content.iter().all(|byte| *byte == content[0]), "mixed");
    content[0]
}

/// Everything that changes something is refused, and the connection goes on.
async fn is_read_only(client: &mut Client) {
    assert!(client.export().read_only);
    let refused = Err(ClientError::Failed(Errno::Permission));
    let data = bytes::Bytes::from_static(&[9; 16]);
    assert_eq!(client.write(0, data.clone(), false).await, refused);
    assert_eq!(client.write(0, data.clone(), true).await, refused);
    assert_eq!(client.trim(0, PAGE, false).await, refused);
    assert_eq!(client.write_zeroes(0, 100, false).await, refused);
    let transaction = client.begin().await.expect("it may read in one");
    let written = transaction.write(0, data).await;
    assert_eq!(
        written,
        Err(ClientError::Conflict),
        "EPERM in a transaction"
    );
    transaction.roll_back().await.expect("it ends");
    client.flush().await.expect("there is nothing to flush");
}

/// `image pins` of the image, as JSON.
fn pins(site: &Site) -> String {
    site.run_well("buffer", &["image", "pins", "disk0", "--output", "json"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_read_by_many_and_written_by_nobody() {
    let site = Site::new();
    let token = site.token(&["--image", "disk0", "--size", "64MiB"]);
    let of_snapshot = site.token(&["--image", "disk0", "--snapshot", "monday"]);
    let server = site.serve("buffer", &[]);
    let refused = server.try_attach(&of_snapshot).await;
    assert!(
        matches!(refused, Err(ClientError::Refused(_))),
        "no such snapshot yet: {refused:?}"
    );
    let writer = server.attach(&token).await;
    write(&writer, 0, 1).await;
    site.run_well("buffer", &["snapshot", "create", "disk0@monday"]);
    let pins_before = pins(&site);
    write(&writer, 0, 2).await;
    write(&writer, 1, 2).await;
    writer.flush().await.expect("a flush");

    // On the writer's own server, and on another one that has nothing of the image.
    let elsewhere = site.serve("elsewhere", &[]);
    for reading in [&server, &elsewhere] {
        let mut first = reading.attach(&of_snapshot).await;
        let mut second = reading.attach(&of_snapshot).await;
        assert_eq!(first.export().size_bytes, 64 * MIB);
        for client in [&mut first, &mut second] {
            is_read_only(client).await;
            assert_eq!([read(client, 0).await, read(client, 1).await], [1, 0]);
        }
        // One goes; the other does not notice.
        first.disconnect().await;
        write(&writer, 0, 3).await;
        assert_eq!(read(&second, 0).await, 1);
        let third = reading.attach(&of_snapshot).await;
        assert_eq!(read(&third, 1).await, 0);
        second.abort().await;
        third.disconnect().await;
    }
    assert_eq!(read(&writer, 0).await, 3);

    // A server stops well while somebody still reads, and leaves nothing pinned.
    let last = elsewhere.attach(&of_snapshot).await;
    assert_eq!(read(&last, 0).await, 1);
    let log = elsewhere.log();
    assert!(
        !log.contains(" ERROR ") && !log.contains("panicked"),
        "{log}"
    );
    elsewhere.stop();
    assert_eq!(last.read(0, 1).await, Err(ClientError::Lost));
    server.stop();
    assert_eq!(pins(&site), pins_before);
}
