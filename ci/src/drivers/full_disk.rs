//! `cargo ci fulldisk`: four images write to buffers on one small file system while the object store
//! is away, until there is no room. No client may see an error, nothing may be poisoned, everything
//! goes on by itself once there is room, and all that was written is found with an empty buffer.
//!
//! Three times: held up by mvps's own limits; by a stranger's file that takes the last byte; and by
//! one that is there when the server starts again after a kill.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::rig::command::run as run_command;
use crate::rig::daemon::{Daemon, Setup};
use crate::rig::fio;
use crate::rig::machine::{self, is_root, system};
use crate::rig::mounted::Mounted;
use crate::rig::object_server::ObjectServer;
use crate::rig::report::Report;
use crate::rig::workspace::Binary;

const IMAGES: [&str; 4] = ["full0", "full1", "full2", "full3"];

/// How long a step may take.
const STEP_LIMIT: Duration = Duration::from_secs(600);

/// How long writes stay held up.
const HELD_UP: Duration = Duration::from_secs(10);

/// No limit but the disk's own.
const NO_LIMITS: [&str; 4] = ["--buffer-total-bytes", "1TiB", "--disk-floor-bytes", "0"];

/// The size of everything.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// MiB of the file system that the buffers are on. All images together write twice as much.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(256..))]
    pub mib: u64,
}

/// Fills the disk in each way.
///
/// # Errors
/// If a client sees an error, an image takes no more writes, or data is missing afterwards.
pub fn run(binary: &Binary, options: &Options) -> Result<()> {
    ensure!(
        is_root(),
        "cargo ci fulldisk mounts a file system on a loop device: run it as root"
    );
    machine::ensure(machine::NBD_TOOLS)?;
    machine::ensure(machine::FILESYSTEM_TOOLS)?;
    let binary = binary.path()?;
    let mut report = Report::default();
    let mib = options.mib;
    report.check("full disk", "held up by the limits", || {
        Case::new(&binary, mib, &[])?.by_the_limits()
    });
    report.check("full disk", "a stranger takes the last byte", || {
        Case::new(&binary, mib, &NO_LIMITS)?.by_a_stranger()
    });
    report.check("full disk", "opening without a free byte", || {
        Case::new(&binary, mib, &NO_LIMITS)?.while_opening()
    });
    report.finish("cargo ci fulldisk")
}

/// One small disk, and a server with its buffers there.
struct Case {
    setup: Setup,
    server: ObjectServer,
    image_mib: u64,
    disk: PathBuf,
    // Dropped after whatever has files on it.
    _mounted: Mounted,
    directory: TempDir,
}

/// fio on every image.
type Load = Vec<JoinHandle<Result<()>>>;

impl Case {
    fn new(binary: &Path, mib: u64, flags: &[&str]) -> Result<Self> {
        let directory = TempDir::with_prefix("mvps-full-disk")?;
        let (file, disk) = (directory.path().join("disk"), directory.path().join("mnt"));
        File::create(&file)?.set_len(mib << 20)?;
        let mut mkfs = system("mkfs.ext4");
        run_command(mkfs.args(["-q", "-F", "-m", "0"]).arg(&file), STEP_LIMIT)?;
        let mounted = Mounted::new(&file, &disk)?;
        let server = ObjectServer::start(&directory.path().join("objects"))?;
        let mut setup = Setup::new(binary, server.store("full/"), directory.path())?;
        setup.buffer = disk.join("buffer");
        setup.flags = vec!["--checkpoint-interval-ms".to_owned(), "2000".to_owned()];
        setup.flags.extend(flags.iter().map(ToString::to_string));
        Ok(Self {
            setup,
            server,
            image_mib: mib / 2,
            disk,
            _mounted: mounted,
            directory,
        })
    }

    fn by_the_limits(mut self) -> Result<String> {
        let daemon = self.setup.start()?;
        let load = self.write_to(&daemon, &IMAGES)?;
        std::thread::sleep(Duration::from_secs(2));
        self.server.cut()?;
        let by = wait_until_held_up(&daemon, "limit of all buffers")?;
        let free = free_bytes(&self.disk)?;
        hold(&load)?;
        self.server.restore()?;
        let took = self.drain(daemon, load)?;
        Ok(format!(
            "{by}; {} MiB were free; drained and verified {took}",
            free >> 20
        ))
    }

    fn by_a_stranger(mut self) -> Result<String> {
        let daemon = self.setup.start()?;
        let load = self.write_to(&daemon, &IMAGES)?;
        std::thread::sleep(Duration::from_secs(2));
        self.server.cut()?;
        let stranger = self.fill()?;
        let by = wait_until_held_up(&daemon, "a full disk")?;
        hold(&load)?;
        self.server.restore()?;
        // Checkpoints make room; the stranger takes it no more.
        fs::remove_file(&stranger)?;
        let took = self.drain(daemon, load)?;
        Ok(format!("{by}; drained and verified {took}"))
    }

    fn while_opening(mut self) -> Result<String> {
        let daemon = self.setup.start()?;
        let load = self.write_to(&daemon, &IMAGES)?;
        for writer in load {
            writer.join().expect("the writer returns")?;
        }
        let more = self.overwrite(&daemon)?;
        daemon.kill()?;
        let stranger = self.fill()?;
        self.server.restore()?;
        let started = Instant::now();
        let daemon = self.setup.start().context("a start on a full disk")?;
        let ready = started.elapsed();
        self.verify(&daemon).context("reads on a full disk")?;
        fs::remove_file(&stranger)?;
        let took = self.drain(daemon, Vec::new())?;
        Ok(format!(
            "{more} MiB waited in the buffers; ready after {:.1} s; drained and verified {took}",
            ready.as_secs_f64()
        ))
    }

    /// Cuts the store off, and writes the same again, so that it waits in the buffers.
    fn overwrite(&mut self, daemon: &Daemon) -> Result<u64> {
        for image in IMAGES {
            daemon.checkpoint(image)?;
        }
        self.server.cut()?;
        let mib = self.image_mib / 8;
        for image in IMAGES {
            let uri = self.uri(daemon, image);
            fio::jobs(&mut written(&uri, mib), STEP_LIMIT)?;
        }
        Ok(mib * IMAGES.len() as u64)
    }

    fn uri(&self, daemon: &Daemon, image: &str) -> String {
        let claims = crate::rig::token::Claims::image(image, self.image_mib << 20);
        daemon.uri_for(&claims)
    }

    fn write_to(&self, daemon: &Daemon, images: &[&str]) -> Result<Load> {
        let mib = self.image_mib;
        let write = |uri: String| move || fio::jobs(&mut written(&uri, mib), STEP_LIMIT).map(drop);
        let uris = images.iter().map(|image| self.uri(daemon, image));
        Ok(uris.map(|uri| std::thread::spawn(write(uri))).collect())
    }

    /// A stranger's file that takes all that is free.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.disk.join("stranger");
        let mut file = File::create(&path)?;
        for bytes in [1 << 20, 4096, 1] {
            let block = vec![0x5a; bytes];
            while file.write_all(&block).is_ok() {}
        }
        let free = free_bytes(&self.disk)?;
        ensure!(free < 1 << 20, "{free} bytes are still free");
        Ok(path)
    }

    /// Everything that was written is in the object store, and found with an empty buffer.
    fn drain(mut self, daemon: Daemon, load: Load) -> Result<String> {
        let began = Instant::now();
        for writer in load {
            writer.join().expect("the writer returns")?;
        }
        for image in IMAGES {
            daemon.checkpoint(image)?;
        }
        let took = began.elapsed();
        must_be_healthy(&daemon)?;
        daemon.stop()?;
        self.setup.buffer = self.directory.path().join("another-buffer");
        let daemon = self.setup.start()?;
        self.verify(&daemon).context("with an empty buffer")?;
        daemon.stop()?;
        Ok(format!("{:.1} s after", took.as_secs_f64()))
    }

    fn verify(&self, daemon: &Daemon) -> Result<()> {
        for image in IMAGES {
            let mut verify = written(&self.uri(daemon, image), self.image_mib);
            fio::jobs(verify.arg("--verify_only"), STEP_LIMIT).context(image)?;
        }
        Ok(())
    }
}

/// fio over the first `mib` of a disk, with checksums that a later run verifies.
fn written(uri: &str, mib: u64) -> Command {
    let mut command = fio::nbd(uri);
    command.args(["--name=full", "--rw=write", "--bs=64k", "--iodepth=8"]);
    command.args(["--verify=crc32c", "--verify_fatal=1", "--do_verify=0"]);
    command.args(["--randseed=7", &format!("--size={mib}m")]);
    command
}

/// Waits until some image says that it is held up by `limit`, and returns all that it says.
fn wait_until_held_up(daemon: &Daemon, limit: &str) -> Result<String> {
    let deadline = Instant::now() + STEP_LIMIT;
    while Instant::now() < deadline {
        let status = daemon.status()?;
        let images = status["images"].as_array().context("images")?;
        let mut limits = images.iter().filter_map(|it| it["held_up"]["by"].as_str());
        if let Some(by) = limits.find(|by| by.contains(limit)) {
            return Ok(format!("held up by {by}"));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    bail!("nobody is held up by {limit}\n{}", daemon.log_tail())
}

/// Nobody fails or ends meanwhile.
fn hold(load: &Load) -> Result<()> {
    std::thread::sleep(HELD_UP);
    let ended = load.iter().filter(|writer| writer.is_finished()).count();
    ensure!(ended == 0, "{ended} writers ended without room");
    Ok(())
}

fn must_be_healthy(daemon: &Daemon) -> Result<()> {
    let status = daemon.status()?;
    for image in status["images"].as_array().context("images")? {
        ensure!(image["health"] == "healthy", "{image}");
    }
    Ok(())
}

fn free_bytes(path: &Path) -> Result<u64> {
    let mut df = system("df");
    let output = run_command(df.args(["--output=avail", "-B1"]).arg(path), STEP_LIMIT)?;
    let last = output.stdout.lines().last().context("a line of df")?;
    Ok(last.trim().parse()?)
}
