//! What the errors of fjall and of the system mean to the engine.

use std::io;
use std::path::Path;

use mvps_core::env::BufferError;

/// Why writing ended for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The disk is full.
    Full(String),
    /// Something else.
    Poisoned(String),
}

impl Failure {
    /// As the error of the call that met it.
    pub fn into_buffer_error(self) -> BufferError {
        match self {
            Self::Full(reason) => BufferError::Full { reason },
            Self::Poisoned(reason) => BufferError::Poisoned { reason },
        }
    }

    /// As the error of an opening that met it.
    pub fn into_open(self) -> BufferError {
        match self {
            Self::Full(reason) => BufferError::Full { reason },
            Self::Poisoned(reason) => BufferError::Io { reason },
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full(error.to_string())
            }
            _ => Self::Poisoned(error.to_string()),
        }
    }
}

/// Names the path in an error of the system.
pub fn io_error(path: &Path) -> impl Fn(io::Error) -> BufferError + '_ {
    move |error| BufferError::Io {
        reason: format!("{}: {error}", path.display()),
    }
}

/// An error of a mutating call.
pub fn write_error(error: fjall::Error) -> Failure {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
            Failure::from(error)
        }
        other => Failure::Poisoned(other.to_string()),
    }
}

/// An error of a reading call.
pub fn read_error(error: fjall::Error) -> BufferError {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
            BufferError::Io {
                reason: error.to_string(),
            }
        }
        other => BufferError::Corrupt {
            reason: other.to_string(),
        },
    }
}

/// An error of opening.
pub fn open_error(error: fjall::Error) -> BufferError {
    match error {
        fjall::Error::Locked => BufferError::Locked {
            path: "the database".to_owned(),
        },
        fjall::Error::Io(error) => Failure::from(error).into_open(),
        other => read_error(other),
    }
}
