//! What the machine must offer: tools by their Debian package, installed when missing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::rig::command;

/// How long apt-get may take.
const INSTALL_LIMIT: Duration = Duration::from_secs(900);

/// A program and the package that brings it.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    program: &'static str,
    package: &'static str,
}

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

/// What attaches to an NBD export.
pub const NBD_TOOLS: &[Tool] = &[
    tool("nbdinfo", "libnbd-bin"),
    tool("nbdcopy", "libnbd-bin"),
    tool("nbdfuse", "libnbd-bin"),
    tool("fusermount3", "fuse3"),
    tool("nbdsh", "python3-libnbd"),
    tool("nbdkit", "nbdkit"),
    tool("nbd-client", "nbd-client"),
    tool("qemu-img", "qemu-utils"),
    tool("qemu-io", "qemu-utils"),
    tool("qemu-nbd", "qemu-utils"),
    tool("fio", "fio"),
    tool("openssl", "openssl"),
];

/// What puts a filesystem on an export.
pub const FILESYSTEM_TOOLS: &[Tool] = &[
    tool("losetup", "util-linux"),
    tool("mount", "mount"),
    tool("mkfs.ext4", "e2fsprogs"),
    tool("mkfs.xfs", "xfsprogs"),
    tool("mkfs.btrfs", "btrfs-progs"),
    tool("blkdiscard", "util-linux"),
];

/// What makes a disk whose power can be cut.
pub const POWER_CUT_TOOLS: &[Tool] = &[
    tool("mount", "mount"),
    tool("umount", "mount"),
    tool("losetup", "util-linux"),
    tool("mkfs.ext4", "e2fsprogs"),
    tool("mkfs.btrfs", "btrfs-progs"),
];

/// Where Debian puts programs; `sbin` is often missing from a user's `PATH`.
const SYSTEM_DIRECTORIES: &[&str] = &["/usr/bin", "/usr/sbin", "/bin", "/sbin"];

/// Where `program` is.
pub fn find(program: &str) -> Option<PathBuf> {
    SYSTEM_DIRECTORIES
        .iter()
        .map(|directory| Path::new(directory).join(program))
        .find(|path| path.exists())
}

/// A command for a system program, with Debian's own directories first: another Python in front
/// of Debian's has no libnbd.
pub fn system(program: &str) -> Command {
    let mut command = Command::new(find(program).unwrap_or_else(|| program.into()));
    let inherited = env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("/usr/bin:/usr/sbin:{inherited}"));
    command
}

/// Makes sure that every tool is there, through apt-get if one is not.
///
/// # Errors
/// Names the tools that are missing if they cannot be installed.
pub fn ensure(tools: &[Tool]) -> Result<()> {
    let missing = missing(tools);
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    let programs: Vec<&str> = missing.iter().map(|tool| tool.program).collect();
    eprintln!("installing {}", packages.join(" "));
    install(&packages).with_context(|| {
        format!(
            "missing: {}; install the Debian packages {}",
            programs.join(" "),
            packages.join(" ")
        )
    })?;
    let still = self::missing(tools);
    if !still.is_empty() {
        bail!("still missing after apt-get install: {still:?}");
    }
    Ok(())
}

fn missing(tools: &[Tool]) -> Vec<Tool> {
    let is_missing = |tool: &&Tool| find(tool.program).is_none();
    tools.iter().filter(is_missing).copied().collect()
}

fn install(packages: &[&str]) -> Result<()> {
    command::run(as_root("apt-get").arg("update"), INSTALL_LIMIT)?;
    let mut install = as_root("apt-get");
    install.args(["install", "--yes", "--no-install-recommends"]);
    install.args(packages);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    command::run(&mut install, INSTALL_LIMIT)?;
    Ok(())
}

/// Whether this process may do everything.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `program` with the rights of root: directly, or through sudo without a question.
pub fn as_root(program: &str) -> Command {
    if is_root() {
        return system(program);
    }
    let mut command = system("sudo");
    command.args(["-n", "-E", program]);
    command
}
