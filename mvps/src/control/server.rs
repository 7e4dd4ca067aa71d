//! Answering.
//!
//! Invariant: the socket has mode 0600 from its first moment, so there is no instant in which
//! another user could connect.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::{Reply, Request, socket_path};
use crate::runtime::remove_stale_socket;

/// Requests are short; an image's name is the longest thing in them.
const REQUEST_MAX_BYTES: u64 = 4096;

/// Operators at once. More of them wait in the socket's queue.
const CONNECTIONS_MAX: usize = 16;

/// Pause after a failed accept (usually: out of file descriptors), so that it is not a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whoever answers.
#[async_trait]
pub trait ControlHandler: Send + Sync + 'static {
    /// Answers one request.
    async fn answer(&self, request: Request) -> Reply;
}

/// A bound control socket. Dropping it removes the file.
pub struct ControlServer {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlServer {
    /// Binds the control socket of this folder, which the caller has locked: a socket that is
    /// there already was left behind.
    ///
    /// # Errors
    /// Whatever the system says.
    pub async fn bind(buffer_store_path: &Path) -> io::Result<Self> {
        let path = socket_path(buffer_store_path);
        remove_stale_socket(&path).await?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // On Linux the file that bind makes inherits the mode of the descriptor.
        let file = File::from(OwnedFd::from(socket));
        file.set_permissions(Permissions::from_mode(0o600))?;
        let socket = Socket::from(OwnedFd::from(file));
        socket.bind(&SockAddr::unix(&path)?)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        socket.listen(128)?;
        socket.set_nonblocking(true)?;
        let listener = UnixListener::from_std(OwnedFd::from(socket).into())?;
        Ok(Self { listener, path })
    }

    /// Answers until it is cancelled.
    pub async fn run(self, handler: Arc<dyn ControlHandler>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await;
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let handler = Arc::clone(&handler);
                    tokio::spawn(async move {
                        if let Err(error) = serve(stream, &*handler).await {
                            tracing::debug!(%error, "a control connection broke");
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket could not accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        // What stays behind is removed by the next server.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Answers the requests of one connection, one after the other.
async fn serve(stream: UnixStream, handler: &dyn ControlHandler) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        (&mut reader)
            .take(REQUEST_MAX_BYTES)
            .read_until(b'\n', &mut line)
            .await?;
        if line.is_empty() {
            return Ok(());
        }
        let whole = line.ends_with(b"\n");
        let reply = match serde_json::from_slice(&line) {
            Ok(request) if whole => handler.answer(request).await,
            Ok(_) => Reply::Failed {
                message: "the request is not a whole line".to_owned(),
            },
            Err(error) => Reply::Failed {
                message: format!("the request is not known: {error}"),
            },
        };
        let mut answer = serde_json::to_vec(&reply)?;
        answer.push(b'\n');
        writer.write_all(&answer).await?;
        if !whole {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CheckpointDone, ControlError, ask};
    use super::*;

    struct Answers;

    #[async_trait]
    impl ControlHandler for Answers {
        async fn answer(&self, request: Request) -> Reply {
            match request {
                Request::Checkpoint { image } if image == "disk0" => {
                    Reply::Checkpointed(CheckpointDone { image, version: 3 })
                }
                other => Reply::Failed {
                    message: format!("cannot {other:?}"),
                },
            }
        }
    }

    fn checkpoint(image: &str) -> Request {
        Request::Checkpoint {
            image: image.to_owned(),
        }
    }

    #[tokio::test]
    async fn questions_are_answered() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let server = ControlServer::bind(folder.path()).await.expect("bind");
        let mode = std::fs::metadata(socket_path(folder.path()))
            .expect("socket")
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        let running = tokio::spawn(server.run(Arc::new(Answers)));

        let reply = ask(folder.path(), &checkpoint("disk0"))
            .await
            .expect("answered");
        let done = CheckpointDone {
            image: "disk0".to_owned(),
            version: 3,
        };
        assert_eq!(reply, Reply::Checkpointed(done));
        let refused = ask(folder.path(), &checkpoint("disk1"))
            .await
            .expect_err("refused");
        assert!(matches!(refused, ControlError::Failed { .. }), "{refused}");

        running.abort();
        let _ = running.await;
        let gone = ask(folder.path(), &Request::Status)
            .await
            .expect_err("gone");
        assert!(matches!(gone, ControlError::NotRunning { .. }), "{gone}");
        assert!(!socket_path(folder.path()).exists());
    }

    #[tokio::test]
    async fn nonsense_gets_an_answer_too() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let server = ControlServer::bind(folder.path()).await.expect("bind");
        let running = tokio::spawn(server.run(Arc::new(Answers)));
        for nonsense in ["\n".to_owned(), "{}\n".to_owned(), "x".repeat(10_000)] {
            let path = socket_path(folder.path());
            let mut stream = UnixStream::connect(path).await.expect("connect");
            // The server may answer and hang up before it has read everything.
            let _ = stream.write_all(nonsense.as_bytes()).await;
            let mut answer = String::new();
            let _ = BufReader::new(stream).read_line(&mut answer).await;
            assert!(answer.starts_with(r#"{"reply":"failed""#), "{answer}");
        }
        running.abort();
    }

    #[tokio::test]
    async fn a_socket_of_a_killed_server_is_replaced() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = socket_path(folder.path());
        drop(std::os::unix::net::UnixListener::bind(path).expect("bind"));
        ControlServer::bind(folder.path())
            .await
            .expect("stale socket is replaced");
    }
}
