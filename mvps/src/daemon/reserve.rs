//! Room for what a start writes on a disk that is full (D10): a file that is given up meanwhile.

use std::path::{Path, PathBuf};

/// The file.
const RESERVE_FILE: &str = "reserve";

/// A few blocks: small files, their drafts and a folder that grows.
const RESERVE_BYTES: usize = 64 << 10;

/// The room, given up until [`Self::close`].
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// Gives up what an earlier start kept in this folder, if it did.
    #[must_use]
    pub fn open(folder: &Path) -> Self {
        let path = folder.join(RESERVE_FILE);
        // There is none before the first start.
        let _ = std::fs::remove_file(&path);
        Self { path }
    }

    /// Keeps room for the next start, as far as there is any.
    pub fn close(self) {
        if let Err(error) = std::fs::write(&self.path, vec![0x5a; RESERVE_BYTES]) {
            let path = self.path.display();
            tracing::warn!(%path, %error, "no room is kept for a start on a full disk");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_between_starts() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let bytes = || std::fs::metadata(folder.path().join(RESERVE_FILE)).map(|it| it.len());
        for _ in 0..2 {
            let reserve = Reserve::open(folder.path());
            assert!(bytes().is_err(), "it is given up");
            reserve.close();
            assert_eq!(bytes().ok(), Some(RESERVE_BYTES as u64));
        }
    }
}
