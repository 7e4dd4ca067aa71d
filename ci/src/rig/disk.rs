//! An NBD export as a block device: nbdfuse shows the export as a file, and a loop device makes
//! that a disk.
//!
//! Invariant: dropping a [`Disk`] detaches it; a driver leaves no loop device behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::rig::command::{self, run, wait_within};
use crate::rig::machine::as_root;

/// How long one step may take.
const STEP_LIMIT: Duration = Duration::from_secs(300);

/// An export as a block device.
pub struct Disk {
    /// Its path.
    pub device: String,
    mount_point: PathBuf,
    nbdfuse: Child,
    attached: bool,
}

impl Disk {
    /// Attaches `uri`; what it takes is made below `place`.
    ///
    /// # Errors
    /// If a tool fails.
    pub fn attach(uri: &str, place: &Path) -> Result<Self> {
        let mount_point = place.join("fuse");
        std::fs::create_dir_all(&mount_point)?;
        let file = mount_point.join("disk");
        let mut nbdfuse = as_root("nbdfuse");
        nbdfuse.arg(&file).arg(uri).stdin(Stdio::null());
        let mut disk = Self {
            device: String::new(),
            mount_point,
            nbdfuse: nbdfuse.spawn().context("starting nbdfuse")?,
            attached: true,
        };
        disk.wait_for(&file)?;
        let mut losetup = as_root("losetup");
        let output = run(losetup.args(["--find", "--show"]).arg(&file), STEP_LIMIT)?.stdout;
        output.trim().clone_into(&mut disk.device);
        Ok(disk)
    }

    fn wait_for(&mut self, file: &Path) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let seen = command::run_any(as_root("test").arg("-f").arg(file), STEP_LIMIT)?;
            if seen.status.success() {
                return Ok(());
            }
            if let Some(status) = self.nbdfuse.try_wait()? {
                bail!("nbdfuse ended: {status}");
            }
            ensure!(Instant::now() < deadline, "nbdfuse shows no file");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Detaches it; everything is written when this returns.
    ///
    /// # Errors
    /// If a tool fails.
    pub fn detach(mut self) -> Result<()> {
        self.release()
    }

    fn release(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.attached, false) {
            return Ok(());
        }
        if !self.device.is_empty() {
            run(
                as_root("losetup").arg("--detach").arg(&self.device),
                STEP_LIMIT,
            )?;
        }
        run(
            as_root("fusermount3").arg("-u").arg(&self.mount_point),
            STEP_LIMIT,
        )?;
        match wait_within(&mut self.nbdfuse, STEP_LIMIT)? {
            Some(status) if status.success() => Ok(()),
            ended => bail!("nbdfuse ended with {ended:?}"),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _already_an_error = self.release();
    }
}
