//! Moves an amount between two numbers on a disk, atomically, whatever others do meanwhile.
//!
//! ```sh
//! mvps &                       # prints a token
//! cargo run --example transfer -- 127.0.0.1:10809 TOKEN
//!
//! mvps --tls-cert cert.pem --tls-key key.pem --tls-required &      # the same, encrypted
//! cargo run --example transfer -- localhost:10809 TOKEN ca.pem
//! ```

use std::num::NonZeroUsize;

use anyhow::Context as _;
use bytes::Bytes;
use mvps::runtime::{ClientTlsFiles, RustlsClientSecurity, TokioSpawner};
use mvps_core::client::{Client, ClientError, Transaction};
use mvps_core::nbd::{ExportName, RequestedOptions};
use tokio::net::TcpStream;

/// Where the two numbers are: each in a page of its own.
const ACCOUNTS: [u64; 2] = [0, 4096];

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (address, token) = arguments
        .next()
        .zip(arguments.next())
        .context("ADDRESS TOKEN [CA]")?;
    let name = ExportName::new(token).context("the token is too long")?;
    let stream = TcpStream::connect(&address).await?;
    let spawner = TokioSpawner::current(NonZeroUsize::MIN);
    let options = RequestedOptions::everything();
    let mut client = match arguments.next() {
        None => Client::connect(stream, name, options, &spawner).await?,
        Some(ca) => {
            // Before anything is asked, and before the token is sent.
            let ca = ca.into();
            let (host, _) = address.rsplit_once(':').context("HOST:PORT")?;
            let security = RustlsClientSecurity::load(&ClientTlsFiles { ca, own: None }, host)?;
            Client::connect_tls(stream, name, options, &security, &spawner).await?
        }
    };

    // Durable when this returns; begun again if somebody else wrote one of the two pages.
    let balances = client.transact(true, async |transaction| transfer(transaction, 10).await);
    let [one, two] = balances.await?;
    let mut text = format!("{one} and {two}\n");

    // What of the first MiB takes space, without reading it.
    for context in client.block_status(0, 1 << 20, false).await? {
        for extent in context.extents {
            text += &format!("{} bytes, flags {}\n", extent.length_bytes, extent.flags);
        }
    }
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())?;
    client.disconnect().await;
    Ok(())
}

async fn transfer(transaction: &Transaction<'_>, amount: i64) -> Result<[i64; 2], ClientError> {
    let mut balances = [0; 2];
    for ((offset, balance), change) in ACCOUNTS.iter().zip(&mut balances).zip([-amount, amount]) {
        let stored = transaction.read(*offset, 8).await?;
        let stored = stored
            .first_chunk()
            .map_or(0, |bytes| i64::from_be_bytes(*bytes));
        *balance = stored + change;
        let bytes = Bytes::copy_from_slice(&balance.to_be_bytes());
        transaction.write(*offset, bytes).await?;
    }
    Ok(balances)
}
