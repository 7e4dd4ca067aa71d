//! Asking a running server.

use std::io;
use std::path::Path;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::{LINE_MAX_BYTES, Reply, Request, socket_path};

/// Why a question got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No server has this folder.
    #[error(
        "no server runs on the buffer store {path}: start one, or name the right folder with \
         --buffer-store-path"
    )]
    NotRunning {
        /// The folder.
        path: String,
    },
    /// The socket belongs to another user.
    #[error("{path} belongs to another user: run this as the user that runs the server")]
    Denied {
        /// The socket.
        path: String,
    },
    /// The connection failed, or the server ended meanwhile.
    #[error("the server did not answer: {0}")]
    Broken(#[from] io::Error),
    /// The answer is not one that this version knows.
    #[error("the server's answer is not understood (is it of another version?): {0}")]
    NotUnderstood(#[from] serde_json::Error),
    /// The server has nothing to do with the image.
    #[error("image {image} is not open in this server")]
    NotOpen {
        /// The image.
        image: String,
    },
    /// The server could not do it.
    #[error("{message}")]
    Failed {
        /// What the server said.
        message: String,
    },
}

/// Asks the server that owns `buffer_store_path`. [`Reply::Failed`] and
/// [`Reply::NotOpen`] come back as errors.
///
/// # Errors
/// See [`ControlError`].
pub async fn ask(buffer_store_path: &Path, request: &Request) -> Result<Reply, ControlError> {
    let path = socket_path(buffer_store_path);
    let mut stream = UnixStream::connect(&path)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ControlError::NotRunning {
                    path: buffer_store_path.display().to_string(),
                }
            }
            io::ErrorKind::PermissionDenied => ControlError::Denied {
                path: path.display().to_string(),
            },
            _ => ControlError::Broken(error),
        })?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = Vec::new();
    let limit = u64::try_from(LINE_MAX_BYTES).unwrap_or(u64::MAX);
    BufReader::new(stream)
        .take(limit)
        .read_until(b'\n', &mut answer)
        .await?;
    if answer.last() != Some(&b'\n') {
        return Err(ControlError::Broken(io::ErrorKind::UnexpectedEof.into()));
    }
    match serde_json::from_slice(&answer)? {
        Reply::Failed { message } => Err(ControlError::Failed { message }),
        Reply::NotOpen { image } => Err(ControlError::NotOpen { image }),
        reply => Ok(reply),
    }
}
