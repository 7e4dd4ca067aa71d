//! One server per folder of buffer stores.
//!
//! A second server that is started by accident fails here, before it opens or fences anything.
//! Each image's buffer store has a lock of its own too; this one covers the control socket and
//! gives the plainer message.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};

/// Name of the file that is locked; it holds the process id of the owner, for messages.
const LOCK_FILE: &str = "mvps.lock";

/// What differs after every boot of a machine.
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// Held as long as the server runs; the system releases it when the process ends in any way.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Makes the folder if there is none, and locks it.
    ///
    /// # Errors
    /// If it cannot be made, or another server has it.
    pub fn take(folder: &Path) -> anyhow::Result<Self> {
        let describe = || format!("the buffer store path {} cannot be used", folder.display());
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(describe)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(folder.join(LOCK_FILE))
            .with_context(describe)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // Only for the message.
                let _ = file.read_to_string(&mut owner);
                bail!(
                    "another mvps (process {}) uses the buffer store path {}: stop it, or give \
                     this one another --buffer-store-path",
                    owner.trim(),
                    folder.display()
                );
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(describe),
        }
        // Only for messages: a full disk is no reason not to start.
        let noted = file.set_len(0).and_then(|()| file.rewind());
        let noted = noted.and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = noted {
            tracing::warn!(%error, "the process id is not noted in the lock file");
        }
        Ok(Self { file })
    }

    /// What no other lock has as long as this one is held, whatever is copied: which file it is,
    /// in which boot of the machine. `None` if the system does not say.
    #[must_use]
    pub fn mark(&self) -> Option<String> {
        let boot = std::fs::read_to_string(BOOT_ID_FILE).ok()?;
        let file = self.file.metadata().ok()?;
        let (device, number) = (file.dev(), file.ino());
        Some(format!("boot {} file {device}:{number}", boot.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_server() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("made/as/needed");
        let lock = FolderLock::take(&path).expect("free");
        let refused = FolderLock::take(&path).expect_err("taken").to_string();
        assert!(
            refused.contains(&format!("(process {})", std::process::id())),
            "{refused}"
        );
        drop(lock);
        FolderLock::take(&path).expect("free again");
    }
}
