//! One `mvps serve` process, as a user starts it, and what the drivers do to it.
//!
//! Invariant: dropping a [`Daemon`] kills its process; a driver leaves none behind.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::rig::command::{self, Finished};
use crate::rig::object_server::{self, ObjectStore};
use crate::rig::process;
use crate::rig::token::{self, Claims};

/// How long a daemon may take until it is ready; it gives up on a silent object store before.
const START_LIMIT: Duration = Duration::from_secs(45);

/// How long a clean shutdown may take: it drains, checkpoints and marks every image clean.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// How long a checkpoint may take: gigabytes may wait for the object store.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(1800);

/// How long an operator's command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// Where a daemon listens.
#[derive(Debug, Clone)]
pub enum Listen {
    /// On a loopback port.
    Tcp(SocketAddr),
    /// On a unix socket.
    Unix(PathBuf),
}

impl Listen {
    /// A loopback port that was free a moment ago.
    ///
    /// # Errors
    /// If there is none.
    pub fn free_port() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("a free port")?;
        Ok(Self::Tcp(listener.local_addr()?))
    }

    fn flag(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    /// The NBD URI of `export` here.
    pub fn uri(&self, export: &str) -> String {
        match self {
            Self::Tcp(address) => format!("nbd://{address}/{export}"),
            Self::Unix(path) => format!("nbd+unix:///{export}?socket={}", path.display()),
        }
    }
}

/// How to start a daemon; the same value starts it again after a kill.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The binary.
    pub binary: PathBuf,
    /// Where images live.
    pub store: ObjectStore,
    /// Its buffer store.
    pub buffer: PathBuf,
    /// Where it listens.
    pub listen: Listen,
    /// Further flags.
    pub flags: Vec<String>,
    /// Where its log goes (appended to).
    pub log: PathBuf,
}

impl Setup {
    /// A daemon of `binary` on `store`, with buffer and log below `directory`.
    ///
    /// # Errors
    /// If no port is free.
    pub fn new(binary: &Path, store: ObjectStore, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self {
            binary: binary.to_owned(),
            store,
            buffer: directory.join("buffer"),
            listen: Listen::free_port()?,
            flags: Vec::new(),
            log: directory.join("mvps.log"),
        })
    }

    /// A command of the binary in the environment of this setup: every flag has a variable, and
    /// those of the stores suit every subcommand.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments);
        match &self.store {
            ObjectStore::Local(path) => {
                command.env("MVPS_TE_IMAGE_STORE", "local");
                command.env("MVPS_TE_IMAGE_STORE_LOCAL_PATH", path);
            }
            ObjectStore::S3 {
                endpoint,
                bucket,
                prefix,
            } => {
                command.env("MVPS_TE_IMAGE_STORE", "s3");
                command.env("MVPS_TE_IMAGE_STORE_S3_BUCKET", bucket);
                command.env("MVPS_TE_IMAGE_STORE_S3_PREFIX", prefix);
                command.env("S3_ENDPOINT", endpoint);
            }
        }
        command
            .env("MVPS_TE_BUFFER_STORE_PATH", &self.buffer)
            .env("MVPS_TE_JWT_SECRET", token::SECRET)
            .env("AWS_ACCESS_KEY_ID", object_server::ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", object_server::SECRET_KEY)
            .env("AWS_REGION", "us-east-1");
        command
    }

    /// Runs an operator's command, such as `image takeover disk0`, which must succeed.
    ///
    /// # Errors
    /// If it fails.
    pub fn operate(&self, arguments: &[&str]) -> Result<Finished> {
        command::run(&mut self.command(arguments), COMMAND_LIMIT)
    }

    /// Runs `mvps image takeover`: an operator accepts that what the buffer store of `image` held
    /// is lost.
    ///
    /// # Errors
    /// If the command fails.
    pub fn take_over(&self, image: &str) -> Result<()> {
        self.operate(&["image", "takeover", image])?;
        Ok(())
    }

    /// Deletes the buffer store, as a lost machine would.
    ///
    /// # Errors
    /// If it cannot be deleted.
    pub fn lose_buffer(&self) -> Result<()> {
        if self.buffer.exists() {
            fs::remove_dir_all(&self.buffer).context("deleting the buffer store")?;
        }
        Ok(())
    }

    /// Starts the daemon and waits until it says that it is ready: it listens long before it has
    /// probed the object store.
    ///
    /// # Errors
    /// If it ends or does not listen in time; the end of its log is in the error.
    pub fn start(&self) -> Result<Daemon> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        // What an earlier daemon of this setup said, its "ready" included, does not count.
        let earlier_bytes = usize::try_from(log.metadata()?.len())?;
        let mut command = self.command(&["serve"]);
        command
            .args(["--listen", &self.listen.flag()])
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("starting {}", self.binary.display()))?;
        let mut daemon = Daemon {
            child,
            setup: self.clone(),
        };
        daemon.wait_until_ready(earlier_bytes)?;
        Ok(daemon)
    }
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    setup: Setup,
}

impl Daemon {
    fn wait_until_ready(&mut self, earlier_bytes: usize) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("mvps serve ended: {status}\n{}", self.log_tail());
            }
            let log = fs::read(&self.setup.log)?;
            let own = String::from_utf8_lossy(&log[earlier_bytes.min(log.len())..]);
            if own.contains(": ready ") {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("mvps serve does not become ready\n{}", self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How it was started.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The number of its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// The NBD URI that `claims` open.
    pub fn uri_for(&self, claims: &Claims) -> String {
        self.setup.listen.uri(&claims.sign())
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.setup.log).unwrap_or_default();
        format!("log of mvps:\n{}", command::tail(&text))
    }

    /// SIGKILL, and the process is gone when this returns.
    ///
    /// # Errors
    /// If it had ended before: a daemon that falls over by itself is a finding.
    pub fn kill(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("mvps had ended by itself: {status}\n{}", self.log_tail());
        }
        self.child.kill().context("SIGKILL")?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGSTOP: it answers nobody and asks nobody from here on, and can only be killed.
    ///
    /// # Errors
    /// If it does not stop.
    pub fn freeze(&self) -> Result<()> {
        command::freeze(&self.child)
    }

    /// SIGTERM, then waits for the clean end.
    ///
    /// # Errors
    /// If it does not end in time, or not with success.
    pub fn stop(mut self) -> Result<Duration> {
        let started = Instant::now();
        command::terminate(&self.child)?;
        let status: Option<ExitStatus> = command::wait_within(&mut self.child, STOP_LIMIT)?;
        match status {
            Some(status) if status.success() => Ok(started.elapsed()),
            Some(status) => bail!("mvps ended with {status}\n{}", self.log_tail()),
            None => bail!(
                "mvps still runs {STOP_LIMIT:?} after SIGTERM\n{}",
                self.log_tail()
            ),
        }
    }

    /// SIGHUP.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn hang_up(&self) -> Result<()> {
        command::hang_up(&self.child)
    }

    /// Sockets that the process has open.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn sockets(&self) -> Result<usize> {
        let mut sockets = 0;
        for entry in fs::read_dir(format!("/proc/{}/fd", self.child.id()))? {
            // One that was closed meanwhile is none.
            let Ok(target) = fs::read_link(entry?.path()) else {
                continue;
            };
            sockets += usize::from(target.to_string_lossy().starts_with("socket:"));
        }
        Ok(sockets)
    }

    /// Fails if the process has ended by itself.
    ///
    /// # Errors
    /// With its exit status and the end of its log.
    pub fn must_run(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("mvps ended by itself: {status}\n{}", self.log_tail()),
        }
    }

    /// Resident memory now, and at its highest, in bytes.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn memory_bytes(&self) -> Result<(u64, u64)> {
        process::memory_bytes(self.child.id())
    }

    /// Asks for a checkpoint of `image` and waits for it.
    ///
    /// # Errors
    /// If the daemon refuses.
    pub fn checkpoint(&self, image: &str) -> Result<Finished> {
        let arguments = ["checkpoint", image];
        command::run(&mut self.setup.command(&arguments), CHECKPOINT_LIMIT)
    }

    /// What `mvps status --output json` says.
    ///
    /// # Errors
    /// If it is not JSON.
    pub fn status(&self) -> Result<Value> {
        let output = self.setup.operate(&["status", "--output", "json"])?.stdout;
        serde_json::from_str(&output).with_context(|| format!("not JSON: {output}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}
