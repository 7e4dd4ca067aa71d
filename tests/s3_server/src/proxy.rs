//! A TCP proxy that can take the server away and give it back.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What one read takes at most.
const CHUNK_BYTES: usize = 64 * 1024;

/// What becomes of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyMode {
    /// They are forwarded.
    Open,
    /// Present ones are closed, new ones are closed as soon as they arrive.
    Cut,
    /// They stay, and nothing passes in either direction; what was sent meanwhile passes later.
    Blackhole,
}

/// A running proxy; dropping it ends it.
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<ProxyMode>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Forwards `listen` (port 0: any) to `upstream`.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub async fn start(listen: SocketAddr, upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (mode, watched) = watch::channel(ProxyMode::Open);
        let task = tokio::spawn(accept(listener, upstream, watched));
        Ok(Self {
            address,
            mode,
            task,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What goes into `S3_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what becomes of connections, present and future.
    pub fn set_mode(&self, mode: ProxyMode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, mode: watch::Receiver<ProxyMode>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        connections.spawn(forward(client, upstream, mode.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn forward(client: TcpStream, upstream: SocketAddr, mut mode: watch::Receiver<ProxyMode>) {
    let cut = {
        let mut mode = mode.clone();
        async move {
            // Ends only when the connection is to be closed.
            let _ = mode.wait_for(|mode| *mode == ProxyMode::Cut).await;
        }
    };
    let pass = async {
        // A mode that changed to Cut closes the connection by the other branch.
        let _ = mode.wait_for(|mode| *mode == ProxyMode::Open).await;
        let Ok(server) = TcpStream::connect(upstream).await else {
            return;
        };
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        tokio::join!(
            copy(client_read, server_write, mode.clone()),
            copy(server_read, client_write, mode.clone()),
        );
    };
    tokio::select! {
        biased;
        () = cut => {}
        () = pass => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<ProxyMode>,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        let open = mode.wait_for(|mode| *mode == ProxyMode::Open).await.is_ok();
        if !open || to.write_all(&chunk[..length]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn echo_server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn echoes(stream: &mut TcpStream) -> bool {
        let mut reply = [0; 4];
        stream.write_all(b"ping").await.is_ok()
            && matches!(stream.read_exact(&mut reply).await, Ok(4))
    }

    #[tokio::test]
    async fn the_switch_works() {
        let any = "127.0.0.1:0".parse().unwrap();
        let proxy = Proxy::start(any, echo_server().await).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(echoes(&mut stream).await);

        proxy.set_mode(ProxyMode::Blackhole);
        let silence = Duration::from_millis(100);
        assert!(
            tokio::time::timeout(silence, echoes(&mut stream))
                .await
                .is_err()
        );
        proxy.set_mode(ProxyMode::Open);
        let mut late = [0; 4];
        assert!(
            stream.read_exact(&mut late).await.is_ok(),
            "what was held back passes"
        );

        proxy.set_mode(ProxyMode::Cut);
        assert!(!echoes(&mut stream).await);
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(!echoes(&mut refused).await);

        proxy.set_mode(ProxyMode::Open);
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(echoes(&mut stream).await);
    }
}
