//! Two clients move money between two accounts on one disk at the same time, and none is lost.
//!
//! A transfer is a transaction: it reads both balances, writes both, and commits, durably. When the
//! other client committed first, the server refuses the commit, and the client runs the transfer
//! again on the new balances. No lock is held meanwhile, and no partial transfer is ever visible.
//!
//! ```sh
//! cargo run --release -p mvps              # in one terminal: a server on ./mvps-data
//!
//! TOKEN=$(cargo run --quiet --release -p mvps -- token --image accounts --size 64MiB)
//! cargo run --quiet --release -p mvps --example transfer -- 127.0.0.1:10809 "$TOKEN"
//! ```
//!
//! With `--tls-cert cert.pem --tls-key key.pem` the server encrypts. A third argument names the
//! authority to trust, as a PEM file: `localhost:10809 "$TOKEN" ca.pem`.
#![expect(clippy::print_stdout, reason = "an example prints what it does")]

use std::num::NonZeroUsize;

use anyhow::Context as _;
use bytes::Bytes;
use mvps::runtime::{ClientTlsFiles, RustlsClientSecurity, TokioSpawner};
use mvps_core::client::{Client, ClientError, Transaction};
use mvps_core::nbd::{ExportName, RequestedOptions};
use tokio::net::TcpStream;

/// Where the two balances are: each in a page of its own.
const ACCOUNTS: [u64; 2] = [0, 4096];

/// How many transfers each client makes.
const TRANSFERS: u32 = 50;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (address, token) = arguments
        .next()
        .zip(arguments.next())
        .context("ADDRESS TOKEN [CA]")?;
    let ca = arguments.next();
    let mut one = connect(&address, &token, ca.as_deref()).await?;
    let mut other = connect(&address, &token, ca.as_deref()).await?;

    let before = one.transact(false, async |now| balances(now).await).await?;
    let (again_one, again_other) =
        tokio::try_join!(transfer_often(&mut one, 10), transfer_often(&mut other, 3))?;
    let after = one.transact(false, async |now| balances(now).await).await?;

    println!("before: {} and {}", before[0], before[1]);
    println!("after:  {} and {}", after[0], after[1]);
    println!(
        "{} transfers by two clients, {} of them begun again; the sum is {} as before",
        2 * TRANSFERS,
        again_one + again_other,
        after[0] + after[1],
    );
    anyhow::ensure!(
        before[0] + before[1] == after[0] + after[1],
        "money is lost"
    );
    one.disconnect().await;
    other.disconnect().await;
    Ok(())
}

async fn connect(address: &str, token: &str, ca: Option<&str>) -> anyhow::Result<Client> {
    let name = ExportName::new(token.to_owned()).context("the token is too long")?;
    let stream = TcpStream::connect(address).await?;
    let spawner = TokioSpawner::current(NonZeroUsize::MIN);
    let options = RequestedOptions::everything();
    let Some(ca) = ca else {
        return Ok(Client::connect(stream, name, options, &spawner).await?);
    };
    // The stream is encrypted before anything is asked, and before the token is sent.
    let (host, _) = address.rsplit_once(':').context("HOST:PORT")?;
    let files = ClientTlsFiles {
        ca: ca.into(),
        own: None,
    };
    let security = RustlsClientSecurity::load(&files, host)?;
    Ok(Client::connect_tls(stream, name, options, &security, &spawner).await?)
}

/// Makes [`TRANSFERS`] transfers; returns how often one was begun again.
async fn transfer_often(client: &mut Client, amount: i64) -> Result<u32, ClientError> {
    let mut attempts = 0;
    for _ in 0..TRANSFERS {
        let transferred = client.transact(true, async |transaction| {
            attempts += 1;
            transfer(transaction, amount).await
        });
        transferred.await?;
    }
    Ok(attempts - TRANSFERS)
}

async fn transfer(transaction: &Transaction<'_>, amount: i64) -> Result<(), ClientError> {
    let [from, to] = balances(transaction).await?;
    for (offset, balance) in ACCOUNTS.into_iter().zip([from - amount, to + amount]) {
        let bytes = Bytes::copy_from_slice(&balance.to_be_bytes());
        transaction.write(offset, bytes).await?;
    }
    Ok(())
}

async fn balances(transaction: &Transaction<'_>) -> Result<[i64; 2], ClientError> {
    let mut balances = [0; 2];
    for (offset, balance) in ACCOUNTS.into_iter().zip(&mut balances) {
        let stored = transaction.read(offset, 8).await?;
        let stored = stored.first_chunk();
        *balance = i64::from_be_bytes(*stored.expect("a read is as long as was asked"));
    }
    Ok(balances)
}
