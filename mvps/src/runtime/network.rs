//! TCP and Unix domain sockets.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use mvps_core::env::{Address, Connection, Listener, Network, PeerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Buffer asked for on each side of a Unix socket, so that a request or reply of 128 KiB rarely
/// waits for the other side to be scheduled; the system may grant less (`net.core.wmem_max`).
/// TCP gets none: naming a size there turns off the kernel's own tuning, which goes higher.
const UNIX_SOCKET_BUFFER_BYTES: usize = 1 << 20;

/// When the system begins to ask a silent peer whether it is still there, how often, and how many
/// times: a client whose machine is gone keeps its place for about two minutes.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_TRIES: u32 = 4;

/// Sockets of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokioNetwork;

#[async_trait]
impl Network for TokioNetwork {
    async fn listen(&self, address: &Address) -> io::Result<Box<dyn Listener>> {
        match address {
            Address::Tcp(host_port) => {
                let listener = TcpListener::bind(host_port).await?;
                let local = listener.local_addr()?.to_string();
                Ok(Box::new(TcpDoor { listener, local }))
            }
            Address::Unix(path) => {
                remove_stale_socket(path).await?;
                let listener = UnixListener::bind(path)?;
                Ok(Box::new(UnixDoor {
                    listener,
                    path: path.clone(),
                }))
            }
        }
    }

    async fn connect(&self, address: &Address) -> io::Result<Box<dyn Connection>> {
        match address {
            Address::Tcp(host_port) => {
                let stream = TcpStream::connect(host_port).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Address::Unix(path) => Ok(Box::new(widen(UnixStream::connect(path).await?)?)),
        }
    }
}

struct TcpDoor {
    listener: TcpListener,
    local: String,
}

#[async_trait]
impl Listener for TcpDoor {
    async fn accept(&mut self) -> io::Result<(Box<dyn Connection>, PeerName)> {
        let (stream, peer) = self.listener.accept().await?;
        // Replies are written whole; waiting for more to send would only add latency.
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_AFTER)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_TRIES);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok((Box::new(stream), PeerName(peer.to_string())))
    }

    fn address(&self) -> Address {
        Address::Tcp(self.local.clone())
    }
}

struct UnixDoor {
    listener: UnixListener,
    path: PathBuf,
}

#[async_trait]
impl Listener for UnixDoor {
    async fn accept(&mut self) -> io::Result<(Box<dyn Connection>, PeerName)> {
        let (stream, _) = self.listener.accept().await?;
        let peer = match stream
            .peer_cred()
            .ok()
            .and_then(|credentials| credentials.pid())
        {
            Some(pid) => format!("unix, process {pid}"),
            None => "unix".to_owned(),
        };
        Ok((Box::new(widen(stream)?), PeerName(peer)))
    }

    fn address(&self) -> Address {
        Address::Unix(self.path.clone())
    }
}

impl Drop for UnixDoor {
    fn drop(&mut self) {
        // What stays behind is found stale, and removed, by the next server.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn widen(stream: UnixStream) -> io::Result<UnixStream> {
    let socket = SockRef::from(&stream);
    socket.set_send_buffer_size(UNIX_SOCKET_BUFFER_BYTES)?;
    socket.set_recv_buffer_size(UNIX_SOCKET_BUFFER_BYTES)?;
    Ok(stream)
}

/// Removes a socket that a killed process left behind. A socket that somebody answers on is
/// [`io::ErrorKind::AddrInUse`]; a path that is no socket is left for `bind` to refuse.
///
/// # Errors
/// Also whatever the file system says.
pub(crate) async fn remove_stale_socket(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        _ => return Ok(()),
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn echo_once(address: Address) {
        let mut listener = TokioNetwork.listen(&address).await.expect("listen");
        let bound = listener.address();
        let client = tokio::spawn(async move {
            let mut stream = TokioNetwork.connect(&bound).await.expect("connect");
            stream.write_all(b"ping").await.expect("write");
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).await.expect("read");
            answer
        });
        let (mut stream, _) = listener.accept().await.expect("accept");
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.expect("read");
        stream.write_all(&bytes).await.expect("write");
        assert_eq!(&client.await.expect("client"), b"ping");
    }

    #[tokio::test]
    async fn bytes_go_both_ways() {
        echo_once(Address::Tcp("127.0.0.1:0".to_owned())).await;
        let folder = tempfile::tempdir().expect("temporary folder");
        echo_once(Address::Unix(folder.path().join("nbd.sock"))).await;
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_taken_over_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("nbd.sock");
        // Dropping std's listener leaves the file, as a killed process does.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bind"));
        assert!(path.exists());
        let address = Address::Unix(path.clone());
        let listener = TokioNetwork
            .listen(&address)
            .await
            .expect("stale socket is replaced");
        let second = TokioNetwork.listen(&address).await.err().expect("in use");
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_plain_file_is_not_removed() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("precious");
        std::fs::write(&path, "data").expect("write");
        TokioNetwork
            .listen(&Address::Unix(path.clone()))
            .await
            .err()
            .expect("refused");
        assert_eq!(std::fs::read(&path).expect("read"), b"data");
    }
}
