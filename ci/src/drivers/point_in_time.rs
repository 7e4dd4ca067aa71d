//! `cargo ci pointintime`: write A, snapshot, write B, roll back, read A; a clone of the snapshot
//! diverges, and both verify, also elsewhere.

use anyhow::{Context, Result, ensure};
use mvps_core::client::Client;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::rig::client::attach;
use crate::rig::daemon::{Daemon, Listen, Setup};
use crate::rig::numbers::Numbers;
use crate::rig::object_server::ObjectServer;
use crate::rig::report::Report;
use crate::rig::token::Claims;
use crate::rig::workspace::Binary;

/// The image and its clone: short names, see [`ObjectServer::store`].
const IMAGE: &str = "p";
const CLONE: &str = "p-clone";
const MONDAY: &str = "p@monday";

/// Their size.
const DISK_BYTES: usize = 64 << 20;

/// One request.
const BLOCK_BYTES: usize = 1 << 20;

/// What is overwritten to diverge: every so many blocks one.
const EVERY: usize = 3;

/// Writes, takes a snapshot, rolls back and clones, and reads every disk back.
///
/// # Errors
/// If a disk does not hold what it must.
pub fn run(binary: &Binary) -> Result<()> {
    let binary = binary.path()?;
    let directory = TempDir::with_prefix("mvps-point-in-time")?;
    let server = ObjectServer::start(&directory.path().join("server"))?;
    let setup = Setup::new(&binary, server.store("pt/"), directory.path())?;
    let mut travel = Travel {
        runtime: Runtime::new()?,
        daemon: setup.start()?,
        numbers: Numbers::new(11),
        image: vec![0; DISK_BYTES],
        clone: Vec::new(),
    };
    let mut report = Report::default();
    report.check("history", "snapshot and rollback", || travel.roll_back());
    report.check("history", "a clone diverges", || travel.diverge());
    let elsewhere = directory.path().join("elsewhere");
    report.check("history", "both again, empty buffer store", move || {
        travel.elsewhere(setup, &elsewhere)
    });
    report.finish("cargo ci pointintime")
}

struct Travel {
    runtime: Runtime,
    daemon: Daemon,
    numbers: Numbers,
    /// What is in the image, and in the clone.
    image: Vec<u8>,
    clone: Vec<u8>,
}

impl Travel {
    fn attach(&self, image: &str) -> Result<Client> {
        let claims = Claims::image(image, DISK_BYTES as u64);
        Ok(self
            .runtime
            .block_on(attach(self.daemon.setup(), &claims))?)
    }

    /// Overwrites every `every`th block of `content`, and of the image that has it.
    fn write(&mut self, image: &str, content: &mut [u8], every: usize) -> Result<()> {
        let client = self.attach(image)?;
        let blocks = content.chunks_mut(BLOCK_BYTES).enumerate();
        for (number, block) in blocks.step_by(every) {
            self.numbers.fill(block);
            let written = client.write((number * BLOCK_BYTES) as u64, block.to_vec().into(), false);
            self.runtime.block_on(written)?;
        }
        self.runtime.block_on(client.flush())?;
        self.runtime.block_on(client.disconnect());
        Ok(())
    }

    fn verify(&self, image: &str, content: &[u8]) -> Result<()> {
        let client = self.attach(image)?;
        for (number, block) in content.chunks(BLOCK_BYTES).enumerate() {
            let at = (number * BLOCK_BYTES) as u64;
            let read = client.read(at, u32::try_from(block.len())?);
            let found = self.runtime.block_on(read)?;
            ensure!(found == block, "{image} differs at {at}");
        }
        self.runtime.block_on(client.disconnect());
        Ok(())
    }

    fn operate(&self, words: &[&str]) -> Result<()> {
        self.daemon.setup().operate(words)?;
        Ok(())
    }

    fn roll_back(&mut self) -> Result<String> {
        let mut content = std::mem::take(&mut self.image);
        self.write(IMAGE, &mut content, 1)?;
        self.operate(&["snapshot", "create", MONDAY])?;
        let mut other = content.clone();
        self.write(IMAGE, &mut other, 1)?;
        self.verify(IMAGE, &other).context("B")?;
        self.operate(&["image", "rollback", MONDAY])?;
        self.verify(IMAGE, &content).context("A again")?;
        self.image = content;
        Ok(format!("{} MiB", DISK_BYTES >> 20))
    }

    fn diverge(&mut self) -> Result<String> {
        self.operate(&["image", "clone", MONDAY, CLONE])?;
        let (mut image, mut clone) = (self.image.clone(), self.image.clone());
        self.verify(CLONE, &clone).context("before it diverges")?;
        self.write(CLONE, &mut clone, EVERY)?;
        self.write(IMAGE, &mut image, EVERY + 1)?;
        self.verify(IMAGE, &image)?;
        self.verify(CLONE, &clone)?;
        (self.image, self.clone) = (image, clone);
        Ok(format!("{} MiB each", DISK_BYTES >> 20))
    }

    fn elsewhere(mut self, mut setup: Setup, buffer: &std::path::Path) -> Result<String> {
        self.daemon.stop()?;
        setup.buffer = buffer.to_owned();
        setup.listen = Listen::free_port()?;
        self.daemon = setup.start()?;
        self.verify(IMAGE, &self.image)?;
        self.verify(CLONE, &self.clone)?;
        self.operate(&["check", "--all", "--read-data"])?;
        self.daemon.stop()?;
        Ok("with mvps check --all --read-data".to_owned())
    }
}
