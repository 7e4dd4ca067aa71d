//! A filesystem in a file, mounted on a loop device.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::rig::command::{run, run_any};
use crate::rig::machine::system;

/// How long one step may take.
const STEP_LIMIT: Duration = Duration::from_secs(120);

/// A mounted filesystem; unmounted when dropped, and its loop device freed with it.
#[derive(Debug)]
pub struct Mounted {
    /// Where it is mounted.
    pub path: PathBuf,
    is_mounted: bool,
}

impl Mounted {
    /// Mounts the filesystem in `file` on `path`; as root.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn new(file: &Path, path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        // The loop device of `-o loop` goes when the filesystem is unmounted.
        run(
            system("mount").args(["-o", "loop"]).arg(file).arg(path),
            STEP_LIMIT,
        )?;
        Ok(Self {
            path: path.to_owned(),
            is_mounted: true,
        })
    }

    /// Unmounts it.
    ///
    /// # Errors
    /// If it cannot be unmounted.
    pub fn unmount(mut self) -> Result<()> {
        run(system("umount").arg(&self.path), STEP_LIMIT)?;
        self.is_mounted = false;
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !self.is_mounted {
            return;
        }
        let ended = run_any(system("umount").arg(&self.path), STEP_LIMIT);
        if !ended.is_ok_and(|ended| ended.status.success()) {
            // Somebody still has a file open: it goes as soon as that ends.
            let _nothing_else_to_try =
                run_any(system("umount").arg("--lazy").arg(&self.path), STEP_LIMIT);
        }
    }
}
