//! Copies a snapshot to a file, and the next time only what changed since.
//!
//! The server says which extents are stored (`base:allocation`) or which ones changed since an
//! earlier version or snapshot (`mvps:changed-since:NAME`), without reading any content. Nothing
//! else is copied. Every snapshot is read as it was, whatever is written meanwhile.
//!
//! ```sh
//! cargo run --release -p mvps              # in one terminal: a server on ./mvps-data
//!
//! mvps() { cargo run --quiet --release -p mvps -- "$@"; }
//! backup() { cargo run --quiet --release -p mvps --example backup -- 127.0.0.1:10809 "$@"; }
//!
//! TOKEN=$(mvps token --image vault --size 64MiB)
//! echo '0 6d6f6e646179' | mvps txn --token "$TOKEN"
//! mvps snapshot create vault@monday
//! backup "$(mvps token --image vault --snapshot monday)" vault.img
//!
//! echo '1MiB 74756573646179' | mvps txn --token "$TOKEN"
//! mvps snapshot create vault@tuesday
//! backup "$(mvps token --image vault --snapshot tuesday)" vault.img monday
//! ```
#![expect(clippy::print_stdout, reason = "an example prints what it does")]

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;

use anyhow::Context as _;
use mvps::quantity::ByteSize;
use mvps::runtime::TokioSpawner;
use mvps_core::client::Client;
use mvps_core::nbd::{ExportName, Framing, Opening, RequestedOptions};
use tokio::net::TcpStream;

/// Most bytes that one request reads.
const READ_BYTES: u64 = 1 << 20;

/// Of an extent in `base:allocation`: nothing is stored there (NBD_STATE_HOLE).
const HOLE: u64 = 1;

/// Of an extent in `mvps:changed-since:`: its content may differ from what it was.
const CHANGED: u64 = 1;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (address, token, path, since) = match arguments.as_slice() {
        [address, token, path] => (address, token, path, None),
        [address, token, path, since] => (address, token, path, Some(since)),
        _ => anyhow::bail!("ADDRESS TOKEN FILE [SNAPSHOT]"),
    };
    let context = match since {
        None => "base:allocation".to_owned(),
        Some(since) => format!("mvps:changed-since:{since}"),
    };
    let client = connect(address, token, &context).await?;
    let size_bytes = client.export().size_bytes;
    let file = match since {
        None => File::create(path)?,
        Some(_) => File::options().write(true).open(path)?,
    };
    file.set_len(size_bytes)?;

    let wanted = |flags: u64| match since {
        None => flags & HOLE == 0,
        Some(_) => flags & CHANGED != 0,
    };
    let (mut offset, mut copied_bytes) = (0, 0);
    while offset < size_bytes {
        // An answer may end early; the next one goes on from there.
        let status = client.block_status(offset, size_bytes - offset, false);
        let status = status.await?.pop().context("one context was selected")?;
        for extent in status.extents {
            if wanted(extent.flags) {
                println!("copies {} bytes at {offset}", extent.length_bytes);
                copy(&client, &file, offset, extent.length_bytes).await?;
                copied_bytes += extent.length_bytes;
            }
            offset += extent.length_bytes;
        }
    }
    file.sync_all()?;
    println!(
        "{path}: {} of {} copied, what {}",
        ByteSize(copied_bytes),
        ByteSize(size_bytes),
        since.map_or("is stored".to_owned(), |since| format!(
            "changed since {since}"
        )),
    );
    client.disconnect().await;
    Ok(())
}

async fn connect(address: &str, token: &str, context: &str) -> anyhow::Result<Client> {
    let name = ExportName::new(token.to_owned()).context("the token is too long")?;
    let stream = TcpStream::connect(address).await?;
    let spawner = TokioSpawner::current(NonZeroUsize::MIN);
    let options = RequestedOptions {
        opening: Opening::Go,
        framing: Framing::Extended,
        contexts: vec![context.to_owned()],
    };
    let client = Client::connect(stream, name, options, &spawner).await?;
    let selected = client
        .export()
        .contexts
        .iter()
        .any(|one| one.name == context);
    anyhow::ensure!(selected, "the server does not know {context}");
    Ok(client)
}

async fn copy(client: &Client, file: &File, offset: u64, length_bytes: u64) -> anyhow::Result<()> {
    let end = offset + length_bytes;
    for part in (offset..end).step_by(usize::try_from(READ_BYTES)?) {
        let length = u32::try_from(READ_BYTES.min(end - part))?;
        let content = client.read(part, length).await?;
        file.write_all_at(&content, part)?;
    }
    Ok(())
}
