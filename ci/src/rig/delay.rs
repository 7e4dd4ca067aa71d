//! A relay between a client and a server of the same machine that makes them look far apart: each
//! direction comes later by half a round trip, in order, at any rate.
//!
//! Must never: change a byte, or hold up one that is due.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

/// Most bytes of a piece.
const PIECE_BYTES: usize = 64 * 1024;

/// Pieces under way in one direction of a connection. At ten milliseconds each way these are
/// 6 GB/s: more than a loopback socket moves, so that the relay delays and does not throttle.
const PIECES_MAX: usize = 1024;

/// A running relay; its connections end with this value.
pub struct Delay {
    address: SocketAddr,
    _runtime: Runtime,
}

impl Delay {
    /// Listens on a free port and passes on to `upstream`.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start(upstream: SocketAddr, round_trip: Duration) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.context("a port for the delaying relay")?;
        let address = listener.local_addr()?;
        runtime.spawn(accept(listener, upstream, round_trip));
        Ok(Self {
            address,
            _runtime: runtime,
        })
    }

    /// Where clients reach it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, round_trip: Duration) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(async move {
            // What the handshake of a far server takes: on this machine it took nothing.
            sleep(round_trip).await;
            let Ok(server) = TcpStream::connect(upstream).await else {
                return;
            };
            // A socket without the option only sends later.
            let _gone_already = client.set_nodelay(true);
            let _gone_already = server.set_nodelay(true);
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let one_way = round_trip / 2;
            tokio::join!(
                pass(from_client, to_server, one_way),
                pass(from_server, to_client, one_way)
            );
        });
    }
}

/// Passes on what is read, each piece `one_way` later, until either side ends.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    one_way: Duration,
) {
    let (sender, mut receiver) = mpsc::channel(PIECES_MAX);
    let reads = async move {
        loop {
            let mut piece = BytesMut::with_capacity(PIECE_BYTES);
            let Ok(1..) = from.read_buf(&mut piece).await else {
                break;
            };
            if sender
                .send((Instant::now() + one_way, piece))
                .await
                .is_err()
            {
                break;
            }
        }
    };
    let writes = async move {
        while let Some((due, piece)) = receiver.recv().await {
            sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _closed_already = to.shutdown().await;
    };
    tokio::join!(reads, writes);
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net;
    use std::time;

    use super::*;
    use crate::rig::numbers::Numbers;

    /// More than one piece, and more than the sockets keep.
    const SENT_BYTES: usize = 8 * 1024 * 1024;

    #[test]
    fn bytes_arrive_unchanged_and_not_early_and_ends_are_passed_on() {
        let listener = net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let upstream = listener.local_addr().expect("an address");
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("passed on");
            let mut received = Vec::new();
            stream.read_to_end(&mut received).expect("received");
            stream.write_all(&received).expect("sent");
        });
        let round_trip = Duration::from_millis(60);
        let delay = Delay::start(upstream, round_trip).expect("a relay");
        let mut sent = vec![0; SENT_BYTES];
        Numbers::new(1).fill(&mut sent);
        let started = time::Instant::now();
        let mut client = net::TcpStream::connect(delay.address()).expect("a connection");
        client.write_all(&sent).expect("sent");
        client.shutdown(net::Shutdown::Write).expect("ended");
        let mut received = Vec::new();
        client.read_to_end(&mut received).expect("received");
        // The handshake's round trip, and that of the bytes.
        assert!(started.elapsed() >= 2 * round_trip);
        assert!(received == sent, "{} bytes came back", received.len());
        echo.join().expect("the server ends");
    }
}
