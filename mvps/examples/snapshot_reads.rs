//! A reader keeps one consistent view of a disk while a writer goes on.
//!
//! The writer puts the number of its round into 256 pages, in one transaction per round, as fast as
//! it can. A reader takes its time: two milliseconds for each page. Without a transaction it meets
//! pages of several rounds. Within one it sees the disk as it was when the transaction began: one
//! round, however long it reads. Neither waits for the other.
//!
//! ```sh
//! cargo run --release -p mvps              # in one terminal: a server on ./mvps-data
//!
//! TOKEN=$(cargo run --quiet --release -p mvps -- token --image rounds --size 64MiB)
//! cargo run --quiet --release -p mvps --example snapshot_reads -- 127.0.0.1:10809 "$TOKEN"
//! ```
//!
//! A view that outlives a connection is a snapshot with a name: see the example `backup`.
#![expect(clippy::print_stdout, reason = "an example prints what it does")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use mvps::runtime::TokioSpawner;
use mvps_core::client::{Client, ClientError};
use mvps_core::nbd::{ExportName, Opening};
use tokio::net::TcpStream;

const PAGE_BYTES: u64 = 4096;
const PAGES: u64 = 256;

/// How long the reader takes for a page.
const PAUSE: Duration = Duration::from_millis(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (address, token) = arguments
        .next()
        .zip(arguments.next())
        .context("ADDRESS TOKEN")?;
    let mut writer = connect(&address, &token).await?;
    let mut reader = connect(&address, &token).await?;
    // The first round, so that every page has a number.
    write_round(&mut writer, 1).await?;

    let round = Cell::new(1);
    let done = Cell::new(false);
    let write = async {
        while !done.get() {
            round.set(round.get() + 1);
            write_round(&mut writer, round.get()).await?;
        }
        anyhow::Ok(())
    };
    let read = async {
        let plain = rounds_seen(async |offset| reader.read(offset, 8).await).await?;
        println!("without a transaction: {}", shown(&plain));

        let transaction = reader.begin().await?;
        let before = round.get();
        let view = rounds_seen(async |offset| transaction.read(offset, 8).await).await?;
        println!(
            "in a transaction:      {}; meanwhile the writer got {} rounds further",
            shown(&view),
            round.get() - before
        );
        transaction.roll_back().await?;
        done.set(true);
        anyhow::ensure!(view.len() == 1, "the view changed");
        Ok(())
    };
    tokio::try_join!(write, read)?;
    writer.disconnect().await;
    reader.disconnect().await;
    Ok(())
}

async fn connect(address: &str, token: &str) -> anyhow::Result<Client> {
    let name = ExportName::new(token.to_owned()).context("the token is too long")?;
    let stream = TcpStream::connect(address).await?;
    let spawner = TokioSpawner::current(NonZeroUsize::MIN);
    Ok(Client::connect(stream, name, Opening::Go, &spawner).await?)
}

/// Puts `round` into all pages, at once for whoever looks.
async fn write_round(writer: &mut Client, round: u64) -> Result<(), ClientError> {
    let number = Bytes::copy_from_slice(&round.to_be_bytes());
    let written = writer.transact(false, async |transaction| {
        for page in 0..PAGES {
            transaction.write(page * PAGE_BYTES, number.clone()).await?;
        }
        Ok(())
    });
    written.await
}

/// The rounds whose numbers are in the pages, one page after the other.
async fn rounds_seen(
    read: impl AsyncFn(u64) -> Result<Bytes, ClientError>,
) -> Result<BTreeSet<u64>, ClientError> {
    let mut rounds = BTreeSet::new();
    for page in 0..PAGES {
        tokio::time::sleep(PAUSE).await;
        let stored = read(page * PAGE_BYTES).await?;
        let number = stored
            .first_chunk()
            .expect("a read is as long as was asked");
        rounds.insert(u64::from_be_bytes(*number));
    }
    Ok(rounds)
}

fn shown(rounds: &BTreeSet<u64>) -> String {
    match (rounds.first(), rounds.last()) {
        (Some(first), Some(last)) if first < last => {
            format!("pages of {} rounds, {first} to {last}", rounds.len())
        }
        (Some(only), _) => format!("all pages are of round {only}"),
        (None, _) => "no pages".to_owned(),
    }
}
