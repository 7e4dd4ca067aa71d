//! A relay between a client and a daemon that can cut its connections, and keeps what the client
//! sent: for clients that must come back, and for captures.
//!
//! Clients reach it by a unix socket; the daemon is reached by its own. Must never: change a byte.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::rig::daemon::Listen;

/// Bytes moved at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Most bytes that are kept of one connection: captures are small, and loads pass by here, too.
const KEPT_MAX_BYTES: usize = 1024 * 1024;

/// What clients sent, by the number of the connection, in the order in which they came.
#[derive(Default)]
struct Sent {
    next: u64,
    of: BTreeMap<u64, Vec<u8>>,
}

type Kept = Arc<Mutex<Sent>>;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A running relay; its connections end with this value.
pub struct Relay {
    listen: Listen,
    cuts: watch::Sender<u64>,
    kept: Kept,
    _runtime: Runtime,
}

impl Relay {
    /// Listens on `socket` and passes on to `upstream`.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start(socket: &Path, upstream: &Listen) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let _gone_already = std::fs::remove_file(socket);
        let listener = {
            let _guard = runtime.enter();
            UnixListener::bind(socket).with_context(|| format!("{}", socket.display()))?
        };
        let (cuts, cut) = watch::channel(0);
        let kept = Kept::default();
        runtime.spawn(accept(listener, upstream.clone(), cut, Arc::clone(&kept)));
        Ok(Self {
            listen: Listen::Unix(socket.to_owned()),
            cuts,
            kept,
            _runtime: runtime,
        })
    }

    /// Where clients reach it.
    pub fn listen(&self) -> &Listen {
        &self.listen
    }

    /// Drops every connection on both sides; new ones are passed on.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// What the clients sent since this was asked last.
    pub fn take_kept(&self) -> Vec<Vec<u8>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut kept.of).into_values().collect()
    }
}

async fn accept(listener: UnixListener, to: Listen, cut: watch::Receiver<u64>, kept: Kept) {
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = connect(&to).await else {
            continue;
        };
        let mut cut = cut.clone();
        cut.mark_unchanged();
        let passing = pass(client, server, Arc::clone(&kept));
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = cut.changed() => {}
                () = passing => {}
            }
        });
    }
}

fn connect(to: &Listen) -> BoxFuture<'_, std::io::Result<Box<dyn Stream>>> {
    Box::pin(async move {
        Ok(match to {
            Listen::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Box::new(stream) as Box<dyn Stream>
            }
            Listen::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    })
}

/// Passes on in both directions until either side ends.
async fn pass(client: UnixStream, server: Box<dyn Stream>, kept: Kept) {
    let number = {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let number = kept.next;
        kept.next += 1;
        kept.of.insert(number, Vec::new());
        number
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = from_client.read(&mut piece).await {
            {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(of) = kept.of.get_mut(&number)
                    && of.len() < KEPT_MAX_BYTES
                {
                    of.extend_from_slice(&piece[..count]);
                }
            }
            if to_server.write_all(&piece[..count]).await.is_err() {
                break;
            }
        }
        // The server may still have something to say.
        let _closed_already = to_server.shutdown().await;
    };
    let down = async {
        let _ended = tokio::io::copy(&mut from_server, &mut to_client).await;
        let _closed_already = to_client.shutdown().await;
    };
    tokio::join!(up, down);
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net;

    use super::*;

    #[test]
    fn what_is_passed_on_is_kept_and_a_cut_ends_both_sides() {
        let directory = tempfile::tempdir().expect("a directory");
        let upstream = directory.path().join("upstream");
        let listener = net::UnixListener::bind(&upstream).expect("a socket");
        let socket = directory.path().join("relay");
        let relay = Relay::start(&socket, &Listen::Unix(upstream)).expect("a relay");
        for round in 0..2 {
            let mut client = net::UnixStream::connect(&socket).expect("a client");
            let (mut server, _) = listener.accept().expect("passed on");
            let mut seen = [0; 4];
            client.write_all(b"ping").expect("sent");
            server.read_exact(&mut seen).expect("received");
            assert_eq!(seen, *b"ping");
            server.write_all(b"pong").expect("sent");
            client.read_exact(&mut seen).expect("received");
            assert_eq!(seen, *b"pong");
            assert_eq!(relay.take_kept(), [b"ping".to_vec()]);
            if round == 0 {
                relay.cut();
                assert_eq!(client.read(&mut seen).expect("the end"), 0);
                assert_eq!(server.read(&mut seen).expect("the end"), 0);
            } else {
                drop(client);
                assert_eq!(server.read(&mut seen).expect("the end"), 0);
            }
        }
    }
}
