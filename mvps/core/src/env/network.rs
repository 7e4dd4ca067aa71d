//! Byte streams between clients and the server.

use std::fmt;
use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

/// Where to listen or connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `host:port`.
    Tcp(String),
    /// A Unix domain socket.
    Unix(PathBuf),
}

/// Who is at the other end, for logs only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerName(pub String);

impl fmt::Display for PeerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// One established byte stream.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for T {}

/// A bound socket.
#[async_trait]
pub trait Listener: Send + 'static {
    /// The next connection. An error concerns that connection only; the caller goes on.
    async fn accept(&mut self) -> io::Result<(Box<dyn Connection>, PeerName)>;
    /// The address that clients use, with the real port when 0 was asked for.
    fn address(&self) -> Address;
}

/// The node's network.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Binds `address`.
    async fn listen(&self, address: &Address) -> io::Result<Box<dyn Listener>>;
    /// Connects to `address`.
    async fn connect(&self, address: &Address) -> io::Result<Box<dyn Connection>>;
}
