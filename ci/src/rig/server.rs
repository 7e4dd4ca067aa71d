//! What the suites run against: mvps, or another NBD server that stands in for it. The suites are
//! proven on the stand-ins: what fails there is the suite's fault.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::rig::command;
use crate::rig::daemon::{Daemon, Listen};
use crate::rig::machine;
use crate::rig::token::Claims;

/// How long a stand-in may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Something that serves images over NBD.
pub trait Server {
    /// The URI of `image`, which comes to life with `size_bytes` if it does not exist.
    ///
    /// # Errors
    /// If it cannot be served.
    fn uri(&mut self, image: &str, size_bytes: u64) -> Result<String>;
}

impl Server for Daemon {
    fn uri(&mut self, image: &str, size_bytes: u64) -> Result<String> {
        self.must_run()?;
        Ok(self.uri_for(&Claims::image(image, size_bytes)))
    }
}

/// Which other server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StandInKind {
    /// `nbdkit memory`.
    Nbdkit,
    /// `qemu-nbd --cache=writeback` on a raw file.
    QemuNbd,
}

impl StandInKind {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nbdkit => "nbdkit",
            Self::QemuNbd => "qemu-nbd",
        }
    }
}

/// Other servers, one process for each image.
pub struct StandIns {
    kind: StandInKind,
    directory: PathBuf,
    running: Vec<(String, StandIn)>,
}

impl StandIns {
    /// None runs yet; raw files go below `directory`.
    pub fn new(kind: StandInKind, directory: &Path) -> Self {
        Self {
            kind,
            directory: directory.to_owned(),
            running: Vec::new(),
        }
    }
}

impl Server for StandIns {
    fn uri(&mut self, image: &str, size_bytes: u64) -> Result<String> {
        if !self.running.iter().any(|(name, _)| name == image) {
            let stand_in = StandIn::start(self.kind, &self.directory, image, size_bytes)?;
            self.running.push((image.to_owned(), stand_in));
        }
        let found = self.running.iter().find(|(name, _)| name == image);
        Ok(found.expect("started above").1.uri())
    }
}

/// One running server of one disk; killed when dropped.
#[derive(Debug)]
pub struct StandIn {
    child: Child,
    listen: Listen,
}

impl StandIn {
    /// Starts a server of one disk of `size_bytes`.
    ///
    /// # Errors
    /// If it does not listen.
    pub fn start(
        kind: StandInKind,
        directory: &Path,
        image: &str,
        size_bytes: u64,
    ) -> Result<Self> {
        let listen = Listen::free_port()?;
        let Listen::Tcp(address) = &listen else {
            unreachable!("a free port is TCP");
        };
        let port = address.port().to_string();
        let mut server = match kind {
            StandInKind::Nbdkit => {
                let mut nbdkit = machine::system("nbdkit");
                nbdkit.args([
                    "--foreground",
                    "--exit-with-parent",
                    "--ipaddr",
                    "127.0.0.1",
                ]);
                nbdkit.args(["--port", &port, "memory", &format!("size={size_bytes}")]);
                nbdkit
            }
            StandInKind::QemuNbd => {
                let raw = directory.join(format!("{image}.raw"));
                std::fs::File::create(&raw)?.set_len(size_bytes)?;
                let mut qemu = machine::system("qemu-nbd");
                qemu.args(["--persistent", "--shared", "16", "--cache", "writeback"]);
                qemu.args(["--discard", "unmap", "--format", "raw"]);
                qemu.args(["--bind", "127.0.0.1", "--port", &port]).arg(raw);
                qemu
            }
        };
        let log = std::fs::File::create(directory.join(format!("{image}.log")))?;
        server
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut stand_in = Self {
            child: server.spawn()?,
            listen,
        };
        stand_in.wait_until_ready(kind)?;
        Ok(stand_in)
    }

    fn wait_until_ready(&mut self, kind: StandInKind) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended: {status}", kind.name());
            }
            let mut nbdinfo = machine::system("nbdinfo");
            nbdinfo.args(["--size", &self.uri()]);
            let answered = command::run_any(&mut nbdinfo, START_LIMIT)?;
            if answered.status.success() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("{} does not listen", kind.name());
    }

    /// Where it serves.
    pub fn uri(&self) -> String {
        self.listen.uri("")
    }

    /// The number of its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}
