//! `mvps txn`: applies a list of changes to an image of a running server, all of them or none.
//!
//! The list is read and understood before anything is sent. Must never: leave a part of the list
//! applied; whatever fails, the transaction is rolled back or its commit refused.

use std::io::Read as _;
use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Context as _, bail};
use mvps_core::client::{Client, ClientError, Transaction};
use mvps_core::env::{Address, Network as _};
use mvps_core::nbd::{Errno, ExportName, Framing, Opening, RequestedOptions};

use super::args::TxnArgs;
use super::token::for_one_connection;
use crate::runtime::{ClientTlsFiles, RustlsClientSecurity, TokioNetwork, TokioSpawner};

mod list;

use list::{Change, List};

/// Most text of a list: every byte of the largest transaction as two digits, and as much again.
const LIST_MAX_BYTES: u64 = 256 << 20;

/// Applies the list; the result is what to print.
///
/// # Errors
/// What went wrong, and what to do.
pub async fn apply(args: &TxnArgs) -> anyhow::Result<String> {
    let list = List::parse(&read_list(&args.list)?, |file| {
        std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))
    })?;
    if list.changes.is_empty() {
        bail!("the list has no change; see mvps txn --help");
    }
    let token = match (&args.token, &args.image) {
        (Some(token), _) => token.clone(),
        (None, Some(image)) => for_one_connection(image)?,
        (None, None) => bail!("name the image with --image, or give a --token"),
    };
    let name = ExportName::new(token).context("the token is too long to be an export name")?;
    let stream = TokioNetwork.connect(&args.connect).await.with_context(|| {
        let address = match &args.connect {
            Address::Tcp(address) => address.clone(),
            Address::Unix(path) => format!("unix:{}", path.display()),
        };
        format!("no server answers at {address}; see --connect")
    })?;
    let spawner = TokioSpawner::current(NonZeroUsize::MIN);
    let options = RequestedOptions {
        framing: Framing::Extended,
        ..RequestedOptions::from(Opening::Go)
    };
    let connected = match security(args)? {
        None => Client::connect(stream, name, options, &spawner).await,
        Some(security) => Client::connect_tls(stream, name, options, &security, &spawner).await,
    };
    let mut client = connected.map_err(|error| advice(&error, "attach"))?;
    check(&list, client.export().size_bytes)?;
    let payload_max = client.export().maximum_payload_bytes as usize;
    let changes = &list.changes;
    let applied = client.transact(args.durable, async |transaction| {
        for (_, change) in changes {
            apply_one(transaction, change, payload_max).await?;
        }
        Ok(())
    });
    let applied = applied.await;
    client.disconnect().await;
    applied.map_err(|error| advice(&error, "apply the list"))?;
    let durable = if args.durable { ", durable" } else { "" };
    Ok(format!("{} changes committed{durable}", list.changes.len()))
}

/// What the flags say of encryption.
fn security(args: &TxnArgs) -> anyhow::Result<Option<RustlsClientSecurity>> {
    let tls = &args.tls;
    let Some(ca) = tls.tls_ca.clone() else {
        return Ok(None);
    };
    let server = match (&tls.tls_server_name, &args.connect) {
        (Some(name), _) => name.as_str(),
        (None, Address::Tcp(address)) => host_of(address),
        (None, Address::Unix(_)) => "localhost",
    };
    let own = tls.tls_client_cert.clone().zip(tls.tls_client_key.clone());
    RustlsClientSecurity::load(&ClientTlsFiles { ca, own }, server).map(Some)
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let inside = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    inside.unwrap_or(host)
}

fn read_list(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        let input = std::io::stdin().lock();
        input.take(LIST_MAX_BYTES + 1).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path);
        file.and_then(|file| file.take(LIST_MAX_BYTES + 1).read_to_string(&mut text))
    };
    read.with_context(|| format!("the list {} cannot be read", path.display()))?;
    if text.len() as u64 > LIST_MAX_BYTES {
        bail!("the list is longer than any transaction may be");
    }
    Ok(text)
}

/// Refuses what the server would refuse, with the line that asks for it.
fn check(list: &List, size_bytes: u64) -> anyhow::Result<()> {
    for (line, change) in &list.changes {
        let (offset, length) = change.range();
        let end = offset.checked_add(length);
        if end.is_none_or(|end| end > size_bytes) {
            bail!("line {line}: {offset}+{length} reaches past the image's end at {size_bytes}");
        }
    }
    Ok(())
}

async fn apply_one(
    transaction: &Transaction<'_>,
    change: &Change,
    payload_max: usize,
) -> Result<(), ClientError> {
    match change {
        Change::Write { offset, data } => {
            let mut offset = *offset;
            let mut data = data.clone();
            while !data.is_empty() {
                let part = data.split_to(data.len().min(payload_max));
                let length = part.len() as u64;
                transaction.write(offset, part).await?;
                offset += length;
            }
            Ok(())
        }
        Change::Zero { offset, length } => transaction.write_zeroes(*offset, *length).await,
        Change::Trim { offset, length } => transaction.trim(*offset, *length).await,
    }
}

/// What went wrong, and what to do about it.
fn advice(error: &ClientError, what: &str) -> anyhow::Error {
    let advice = match error {
        ClientError::Refused(_) => {
            "is the token for this server (MVPS_TE_JWT_SECRET), and is there such an image?"
        }
        ClientError::Conflict => {
            "nothing was changed: others keep writing the same pages, or hold the lock; try again"
        }
        ClientError::Failed(Errno::OutOfMemory) => {
            "nothing was changed: the list is over the server's limit for one transaction (64 MiB)"
        }
        ClientError::Failed(Errno::Permission) => "nothing was changed: the export is read-only",
        ClientError::Failed(Errno::Shutdown) => {
            "nothing was changed: the server has given up the image; its log says why"
        }
        ClientError::Tls(_) => {
            "is the server's certificate signed by --tls-ca, and for the name in --connect or \
             --tls-server-name? does the server ask for a certificate (--tls-client-cert)?"
        }
        ClientError::Lost => "all of it was changed, or nothing: look before you try again",
        _ => "nothing was changed",
    };
    anyhow::anyhow!("cannot {what}: {error}; {advice}")
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn the_host_of_an_address_is_what_the_certificate_is_for() {
        for (address, host) in [
            ("disks.example:10809", "disks.example"),
            ("127.0.0.1:10809", "127.0.0.1"),
            ("[::1]:10809", "::1"),
            ("alone", "alone"),
        ] {
            assert_eq!(host_of(address), host);
        }
    }
}
