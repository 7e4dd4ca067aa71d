//! `cargo ci filesystem`: a real filesystem on an attached disk: made, filled with a source tree,
//! checked, and found again by a daemon that starts with another, empty buffer store.
//!
//! nbdfuse shows the export as a file, a loop device makes that a disk; both are made anew for
//! each attachment, so that no page cache can answer for the daemon.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::rig::command::run;
use crate::rig::daemon::Setup;
use crate::rig::disk::Disk;
use crate::rig::machine::{self, as_root};
use crate::rig::object_server::{ObjectServer, ObjectStore};
use crate::rig::report::Report;
use crate::rig::server::{Server, StandInKind, StandIns};
use crate::rig::workspace::Binary;

/// The size of the disk.
const DISK_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// The least that is copied onto it.
const TREE_LEAST_BYTES: u64 = 200 * 1000 * 1000;

/// How long one step may take.
const STEP_LIMIT: Duration = Duration::from_secs(300);

/// A filesystem, how it is made and how it is checked without being changed.
struct Kind {
    name: &'static str,
    make: &'static [&'static str],
    verify: &'static [&'static str],
}

const KINDS: &[Kind] = &[
    Kind {
        name: "ext4",
        make: &["mkfs.ext4", "-q", "-F"],
        verify: &["e2fsck", "-fn"],
    },
    Kind {
        name: "xfs",
        make: &["mkfs.xfs", "-q", "-f"],
        verify: &["xfs_repair", "-n"],
    },
];

/// Runs ext4 and XFS on the local store and ext4 on the S3 server, or both on a stand-in (which
/// only proves the driver).
///
/// # Errors
/// If a step fails or a tool is missing.
pub fn run_all(binary: &Binary, against: Option<StandInKind>) -> Result<()> {
    machine::ensure(machine::NBD_TOOLS)?;
    machine::ensure(machine::FILESYSTEM_TOOLS)?;
    let directory = TempDir::with_prefix("mvps-filesystem")?;
    let trees = Trees::find(directory.path())?;
    let mut report = Report::default();
    for kind in KINDS {
        let place = directory.path().join(kind.name);
        std::fs::create_dir_all(&place)?;
        match against {
            Some(stand_in) => {
                let mut server = StandIns::new(stand_in, &place);
                let uri = server.uri("disk", DISK_BYTES)?;
                first_life(&mut report, kind.name, kind, &uri, &trees, &place);
                second_life(&mut report, kind.name, kind, &uri, &trees, &place);
            }
            None => {
                let store = ObjectStore::Local(place.join("objects"));
                on_mvps(&mut report, kind, &binary.path()?, store, &trees, &place)?;
            }
        }
    }
    if against.is_none() {
        let place = directory.path().join("s3");
        let server = ObjectServer::start(&place.join("objects"))?;
        let store = server.store("filesystem/");
        on_mvps(
            &mut report,
            &KINDS[0],
            &binary.path()?,
            store,
            &trees,
            &place,
        )?;
    }
    report.finish("cargo ci filesystem")
}

fn on_mvps(
    report: &mut Report,
    kind: &Kind,
    binary: &Path,
    store: ObjectStore,
    trees: &Trees,
    place: &Path,
) -> Result<()> {
    let area = match &store {
        ObjectStore::Local(_) => kind.name.to_owned(),
        ObjectStore::S3 { .. } => format!("{} on s3", kind.name),
    };
    let area = area.as_str();
    let mut setup = Setup::new(binary, store, place)?;
    let mut daemon = setup.start()?;
    let uri = Server::uri(&mut daemon, "disk", DISK_BYTES)?;
    first_life(report, area, kind, &uri, trees, place);
    report.check(area, "clean shutdown (SIGTERM)", || {
        Ok(format!("{:.1} s", daemon.stop()?.as_secs_f64()))
    });
    setup.buffer = place.join("another-buffer");
    let mut daemon = setup.start()?;
    let uri = Server::uri(&mut daemon, "disk", DISK_BYTES)?;
    second_life(report, area, kind, &uri, trees, place);
    report.check(area, "clean shutdown again", || {
        Ok(format!("{:.1} s", daemon.stop()?.as_secs_f64()))
    });
    Ok(())
}

fn first_life(
    report: &mut Report,
    area: &str,
    kind: &Kind,
    uri: &str,
    trees: &Trees,
    place: &Path,
) {
    report.check(area, "make, mount, copy in, unmount", || {
        let disk = Disk::attach(uri, place)?;
        run(
            as_root(kind.make[0])
                .args(&kind.make[1..])
                .arg(&disk.device),
            STEP_LIMIT,
        )?;
        let mounted = Mounted::new(&disk, place, "rw")?;
        for tree in &trees.roots {
            let mut copy = as_root("cp");
            copy.arg("--archive").arg(tree).arg(&mounted.path);
            run(&mut copy, STEP_LIMIT)?;
        }
        mounted.unmount()?;
        verify(kind, &disk)?;
        disk.detach()?;
        let megabytes = trees.bytes / 1_000_000;
        Ok(format!("{megabytes} MB, {} clean", kind.verify[0]))
    });
}

fn second_life(
    report: &mut Report,
    area: &str,
    kind: &Kind,
    uri: &str,
    trees: &Trees,
    place: &Path,
) {
    report.check(area, "mount elsewhere, compare checksums", || {
        let disk = Disk::attach(uri, place)?;
        let mounted = Mounted::new(&disk, place, "ro")?;
        let found = checksums(&mounted.path, &trees.names())?;
        mounted.unmount()?;
        ensure!(
            found == trees.checksums,
            "{}",
            first_difference(trees, &found)
        );
        verify(kind, &disk)?;
        disk.detach()?;
        Ok(format!("{} files identical", found.lines().count()))
    });
}

fn verify(kind: &Kind, disk: &Disk) -> Result<()> {
    let mut check = as_root(kind.verify[0]);
    run(check.args(&kind.verify[1..]).arg(&disk.device), STEP_LIMIT)?;
    Ok(())
}

fn first_difference(trees: &Trees, found: &str) -> String {
    let pairs = trees.checksums.lines().zip(found.lines());
    let mut differing = pairs.filter(|(expected, found)| expected != found);
    match differing.next() {
        Some((expected, found)) => format!("expected {expected}\nfound    {found}"),
        None => "the number of files differs".to_owned(),
    }
}

/// Real source trees of this machine: what cargo unpacked, and Rust's own libraries if that is
/// not enough.
struct Trees {
    roots: Vec<PathBuf>,
    bytes: u64,
    checksums: String,
}

impl Trees {
    fn find(scratch: &Path) -> Result<Self> {
        let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
        let cargo = cargo_home
            .or(home)
            .context("neither CARGO_HOME nor HOME is set")?;
        let mut sysroot = Command::new("rustc");
        let sysroot = run(sysroot.args(["--print", "sysroot"]), STEP_LIMIT)?.stdout;
        let candidates = [
            cargo.join("registry/src"),
            PathBuf::from(sysroot.trim()).join("lib"),
        ];
        let (mut roots, mut bytes) = (Vec::new(), 0);
        for candidate in candidates.into_iter().filter(|path| path.is_dir()) {
            if bytes < TREE_LEAST_BYTES {
                bytes += size_bytes(&candidate)?;
                // A copy of its own: another build may unpack more while this one runs.
                let name = format!("tree{}", roots.len());
                let copy = scratch.join(&name);
                let mut cp = machine::system("cp");
                cp.args(["--archive", "--reflink=auto"])
                    .arg(&candidate)
                    .arg(&copy);
                run(&mut cp, STEP_LIMIT)?;
                roots.push(copy);
            }
        }
        ensure!(
            bytes >= TREE_LEAST_BYTES,
            "only {bytes} bytes of source trees here"
        );
        let mut trees = Self {
            roots,
            bytes,
            checksums: String::new(),
        };
        trees.checksums = checksums(scratch, &trees.names())?;
        Ok(trees)
    }

    fn names(&self) -> Vec<String> {
        let name = |root: &PathBuf| root.file_name().expect("named above").to_owned();
        let text = |name: std::ffi::OsString| name.to_string_lossy().into_owned();
        self.roots.iter().map(name).map(text).collect()
    }
}

fn size_bytes(path: &Path) -> Result<u64> {
    let output = run(machine::system("du").args(["-sb"]).arg(path), STEP_LIMIT)?.stdout;
    let first = output.split_whitespace().next().context("a size from du")?;
    Ok(first.parse()?)
}

/// A line of checksum and name for every file below `names` in `directory`, in a fixed order.
fn checksums(directory: &Path, names: &[String]) -> Result<String> {
    let script = format!(
        "set -o pipefail; find {} -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum",
        names.join(" ")
    );
    let mut bash = as_root("bash");
    bash.args(["-c", &script]).current_dir(directory);
    Ok(run(&mut bash, STEP_LIMIT)?.stdout)
}

/// A mounted filesystem; unmounted when dropped.
struct Mounted {
    path: PathBuf,
    is_mounted: bool,
}

impl Mounted {
    fn new(disk: &Disk, place: &Path, options: &str) -> Result<Self> {
        let path = place.join("mounted");
        std::fs::create_dir_all(&path)?;
        let mut mount = as_root("mount");
        run(
            mount.args(["-o", options, &disk.device]).arg(&path),
            STEP_LIMIT,
        )?;
        Ok(Self {
            path,
            is_mounted: true,
        })
    }

    fn unmount(mut self) -> Result<()> {
        self.release()
    }

    fn release(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_mounted, false) {
            run(as_root("umount").arg(&self.path), STEP_LIMIT)?;
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _already_an_error = self.release();
    }
}
