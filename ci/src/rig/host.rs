//! What figures depend on beside the programs: the machine, and the file system of a folder.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A load that shows that a machine is not quiet: as if one program ran all the time.
const BUSY_LOAD: f64 = 1.0;

/// A machine, seen from one folder.
#[derive(Debug)]
pub struct Host {
    kernel: String,
    cores: usize,
    memory_bytes: u64,
    /// Programs that ran or wanted to, on average over the last minute.
    load: f64,
    directory: PathBuf,
    file_system: FileSystem,
    free_bytes: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct FileSystem {
    kind: String,
    device: String,
    options: String,
}

impl Host {
    /// Looks at this machine and at the file system of `directory`.
    ///
    /// # Errors
    /// If `/proc` says something unexpected.
    pub fn seen_from(directory: &Path) -> Result<Self> {
        let directory = directory.canonicalize()?;
        let memory = fs::read_to_string("/proc/meminfo")?;
        let load = fs::read_to_string("/proc/loadavg")?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(Self {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            memory_bytes: total_memory(&memory).context("MemTotal of /proc/meminfo")?,
            load: first_number(&load).context("the load of /proc/loadavg")?,
            file_system: file_system_of(&mounts, &directory).context("its file system")?,
            free_bytes: free_bytes(&directory)?,
            directory,
        })
    }

    /// Free bytes of the file system, when this was made.
    pub fn free_bytes(&self) -> u64 {
        self.free_bytes
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let mut lines = vec![
            format!(
                "machine: Linux {}, {} cores, {:.1} GiB of memory, load {:.2}",
                self.kernel,
                self.cores,
                gib(self.memory_bytes),
                self.load
            ),
            format!(
                "folder: {} on {} ({}, {}), {:.1} GiB free",
                self.directory.display(),
                self.file_system.kind,
                self.file_system.device,
                self.file_system.options,
                gib(self.free_bytes)
            ),
        ];
        if self.load >= BUSY_LOAD {
            lines.push("BUSY: something else ran here in the last minute".to_owned());
        }
        lines
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "kernel": self.kernel,
            "cores": self.cores,
            "memory_bytes": self.memory_bytes,
            "load": self.load,
            "directory": self.directory,
            "file_system": self.file_system.kind,
            "device": self.file_system.device,
            "mount_options": self.file_system.options,
            "free_bytes": self.free_bytes,
        })
    }
}

/// What an ordinary user may still write to the file system of `directory`.
///
/// # Errors
/// If the system does not say.
pub fn free_bytes(directory: &Path) -> Result<u64> {
    let seen = rustix::fs::statvfs(directory)?;
    Ok(seen.f_bavail * seen.f_frsize)
}

/// Writes back everything that waits for the file system of `directory`.
///
/// # Errors
/// If the disk fails.
pub fn sync_file_system(directory: &Path) -> Result<()> {
    rustix::fs::syncfs(File::open(directory)?).context("syncing the file system")
}

/// Bytes that the block device below `directory` has written since the machine started, whoever
/// asked for them; `None` if there is no such device, as below a file system in memory.
///
/// # Errors
/// If `directory` is not there.
pub fn device_written_bytes(directory: &Path) -> Result<Option<u64>> {
    let device = fs::metadata(directory)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let statistics = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"));
    Ok(statistics.ok().as_deref().and_then(written_bytes))
}

/// The kernel's Documentation/block/stat.rst: the seventh number is sectors written, of 512 bytes.
fn written_bytes(statistics: &str) -> Option<u64> {
    let sectors: u64 = statistics.split_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * 512)
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn first_number(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

/// The file system with the longest mount point above `path`; of several in the same place the
/// last one hides the others.
fn file_system_of(mountinfo: &str, path: &Path) -> Option<FileSystem> {
    let mut found: Option<(usize, FileSystem)> = None;
    for line in mountinfo.lines() {
        // proc(5): number, parent, device, root, mount point, options, tags, "-", type, source.
        let Some((mount, system)) = line.split_once(" - ") else {
            continue;
        };
        let mount: Vec<&str> = mount.split(' ').collect();
        let system: Vec<&str> = system.split(' ').collect();
        let ([_, _, _, _, point, options, ..], [kind, device, ..]) = (&mount[..], &system[..])
        else {
            continue;
        };
        let is_longest = found
            .as_ref()
            .is_none_or(|(length, _)| point.len() >= *length);
        if path.starts_with(point) && is_longest {
            let system = FileSystem {
                kind: (*kind).to_owned(),
                device: (*device).to_owned(),
                options: (*options).to_owned(),
            };
            found = Some((point.len(), system));
        }
    }
    found.map(|(_, system)| system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_is_the_one() {
        let mounts = "\
            22 1 254:0 / / rw,noatime shared:1 - ext4 /dev/vda rw\n\
            30 22 0:25 / /dev rw - tmpfs tmpfs rw\n\
            31 22 0:26 / /data rw - ext4 /dev/vdb rw\n\
            32 31 0:27 / /data rw - xfs /dev/vdc rw\n";
        let check = |path: &str, kind: &str, device: &str| {
            let found = file_system_of(mounts, Path::new(path)).expect("a file system");
            assert_eq!((&*found.kind, &*found.device), (kind, device), "{path}");
        };
        check("/", "ext4", "/dev/vda");
        check("/tmp/x", "ext4", "/dev/vda");
        check("/database", "ext4", "/dev/vda");
        check("/dev/shm", "tmpfs", "tmpfs");
        check("/data/x", "xfs", "/dev/vdc");
        assert_eq!(file_system_of("nonsense", Path::new("/")), None);
    }

    #[test]
    fn sectors_written_are_found() {
        let check = |text, expected| assert_eq!(written_bytes(text), expected, "{text}");
        check("  10  1  80  5  20  2  300  9  0  8  14\n", Some(153_600));
        check("1 2 3", None);
        check("", None);
    }

    #[test]
    fn this_machine_is_seen() {
        let host = Host::seen_from(&std::env::temp_dir()).expect("this machine");
        assert!(host.cores > 0 && host.memory_bytes > 0);
        assert_eq!(host.json()["cores"], host.cores);
        assert!(host.lines()[0].starts_with("machine: Linux "));
    }
}
