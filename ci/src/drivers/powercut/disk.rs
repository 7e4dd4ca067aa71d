//! A disk whose power can be cut: a file on btrfs, a loop device on it, ext4 on that.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::rig::command::run;
use crate::rig::machine::system;
use crate::rig::mounted::Mounted;

/// How long one step may take.
const STEP_LIMIT: Duration = Duration::from_secs(120);

/// The size of the disk: several journals and generations fit.
const DISK_BYTES: u64 = 2 << 30;

/// The size of the btrfs beneath it: the disk, two copies that share most of it, and free space.
const HOST_BYTES: u64 = 8 << 30;

/// A machine whose power can be cut: a filesystem on a loop device, whose file can be copied as the
/// disk held it.
#[derive(Debug)]
pub struct Machine {
    // Dropped first: it lies on the other.
    live: Option<Mounted>,
    host: Mounted,
    live_path: PathBuf,
}

impl Machine {
    /// A machine with an empty disk, below `place`; it runs.
    ///
    /// # Errors
    /// If the filesystems cannot be made or mounted.
    pub fn new(place: &Path) -> Result<Self> {
        let file = place.join("btrfs.img");
        sparse(&file, HOST_BYTES)?;
        run(system("mkfs.btrfs").arg("-q").arg(&file), STEP_LIMIT)?;
        let host = Mounted::new(&file, &place.join("btrfs"))?;
        let mut machine = Self {
            live: None,
            host,
            live_path: place.join("disk"),
        };
        sparse(&machine.file("disk.img"), DISK_BYTES)?;
        let disk = machine.file("disk.img");
        run(
            system("mkfs.ext4").args(["-q", "-F"]).arg(&disk),
            STEP_LIMIT,
        )?;
        machine.power_on("disk.img")?;
        Ok(machine)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.host.path.join(name)
    }

    /// Where the disk is mounted.
    pub fn path(&self) -> &Path {
        &self.live_path
    }

    fn power_on(&mut self, name: &str) -> Result<()> {
        let mounted = Mounted::new(&self.file(name), &self.live_path);
        self.live = Some(mounted.with_context(|| format!("mounting {name}"))?);
        Ok(())
    }

    /// Brings everything to the disk that its filesystem still holds in memory, as it may do at any
    /// time by itself.
    ///
    /// # Errors
    /// If it fails.
    pub fn write_back(&self) -> Result<()> {
        run(system("sync").arg("-f").arg(&self.live_path), STEP_LIMIT)?;
        Ok(())
    }

    /// Keeps what the disk holds at this instant: what a power cut would leave.
    ///
    /// # Errors
    /// If the copy fails.
    pub fn cut(&self) -> Result<()> {
        self.copy("disk.img", "cut.img")
    }

    fn copy(&self, from: &str, to: &str) -> Result<()> {
        let mut copy = system("cp");
        copy.arg("--reflink=always");
        copy.args([self.file(from), self.file(to)]);
        run(&mut copy, STEP_LIMIT)?;
        Ok(())
    }

    /// Starts the machine again with what [`Machine::cut`] kept. Nobody uses the disk any more.
    ///
    /// # Errors
    /// If it cannot be unmounted or mounted.
    pub fn power_on_after_cut(&mut self) -> Result<()> {
        self.power_off()?;
        std::fs::rename(self.file("cut.img"), self.file("disk.img"))?;
        self.power_on("disk.img")
    }

    /// Starts the machine with a copy of what [`Machine::cut`] kept, to be spoilt.
    ///
    /// # Errors
    /// If it cannot be unmounted or mounted.
    pub fn power_on_with_copy_of_cut(&mut self) -> Result<()> {
        self.power_off()?;
        self.copy("cut.img", "spoilt.img")?;
        self.power_on("spoilt.img")
    }

    fn power_off(&mut self) -> Result<()> {
        match self.live.take() {
            Some(mounted) => mounted.unmount(),
            None => Ok(()),
        }
    }
}

fn sparse(path: &Path, bytes: u64) -> Result<()> {
    let file = std::fs::File::create(path)?;
    file.set_len(bytes)?;
    Ok(())
}
