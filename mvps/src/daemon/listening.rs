//! Binds what the server listens on, and says what to do when it cannot.

use std::io;

use anyhow::Context as _;
use mvps_core::env::{Address, Listener, Network};

/// Binds all of `addresses`, or none.
///
/// # Errors
/// Which one could not be bound, and what to do.
pub async fn bind_all(
    network: &dyn Network,
    addresses: &[Address],
) -> anyhow::Result<Vec<Box<dyn Listener>>> {
    let mut listeners = Vec::new();
    for address in addresses {
        let bound = network.listen(address).await;
        listeners.push(
            bound
                .map_err(|error| advice(address, &error))
                .context("cannot listen")?,
        );
    }
    Ok(listeners)
}

fn advice(address: &Address, error: &io::Error) -> anyhow::Error {
    let name = shown(address);
    match (error.kind(), address) {
        (io::ErrorKind::AddrInUse, Address::Tcp(host_port)) => {
            let host = host_port
                .rsplit_once(':')
                .map_or("127.0.0.1", |(host, _)| host);
            anyhow::anyhow!(
                "{name} is taken, perhaps by another mvps or NBD server: stop that one, or choose \
                 another port, for example --listen {host}:10810 (port 0 takes any that is free)"
            )
        }
        (io::ErrorKind::AddrInUse, Address::Unix(_)) => {
            anyhow::anyhow!("another server answers on {name}: stop it, or choose another path")
        }
        (io::ErrorKind::PermissionDenied, Address::Tcp(_)) => anyhow::anyhow!(
            "{name}: the system does not permit it; ports below 1024 need privileges"
        ),
        (io::ErrorKind::NotFound, Address::Unix(_)) => {
            anyhow::anyhow!("{name}: its folder does not exist; make it first")
        }
        _ => anyhow::anyhow!("{name}: {error}"),
    }
}

/// An address as `--listen` takes it.
#[must_use]
pub fn shown(address: &Address) -> String {
    match address {
        Address::Tcp(host_port) => host_port.clone(),
        Address::Unix(path) => format!("unix:{}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::TokioNetwork;

    #[tokio::test]
    async fn a_taken_port_says_what_to_do() {
        let any = [Address::Tcp("127.0.0.1:0".to_owned())];
        let first = bind_all(&TokioNetwork, &any).await.expect("free");
        let taken = [first[0].address()];
        let error = bind_all(&TokioNetwork, &taken).await.err().expect("taken");
        let text = format!("{error:#}");
        assert!(text.contains(&shown(&taken[0])), "{text}");
        assert!(text.contains("--listen 127.0.0.1:10810"), "{text}");
    }

    #[tokio::test]
    async fn a_missing_folder_says_what_to_do() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let missing = [Address::Unix(folder.path().join("none/nbd.sock"))];
        let error = bind_all(&TokioNetwork, &missing)
            .await
            .err()
            .expect("no folder");
        assert!(format!("{error:#}").contains("make it first"), "{error:#}");
    }
}
