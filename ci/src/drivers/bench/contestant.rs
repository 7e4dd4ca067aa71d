//! Who takes part: a daemon of mvps, or `qemu-nbd` on a raw file.
//!
//! Every daemon of a table runs with the flags that a user gets by default.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::figures::Run;
use super::rows::Row;
use super::table::Side;
use crate::rig::daemon::{Daemon, Setup};
use crate::rig::fio;
use crate::rig::host;
use crate::rig::object_server::ObjectStore;
use crate::rig::process;
use crate::rig::server::{StandIn, StandInKind};
use crate::rig::token::Claims;

/// The image. Its name is short: see [`crate::rig::object_server::ObjectServer::store`].
pub const IMAGE: &str = "bench";

/// How long a run of fio may take beyond its own duration: writes may wait for a store.
const SLACK: Duration = Duration::from_secs(1800);

/// The programs that are measured.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The daemon.
    pub mvps: PathBuf,
    /// The collector, which runs between rows.
    pub collector: PathBuf,
}

/// Somebody who takes part, with one disk.
pub struct Contestant {
    who: Who,
    place: PathBuf,
}

enum Who {
    Mvps(Box<Mvps>),
    Raw(StandIn),
}

struct Mvps {
    setup: Setup,
    /// The same for the collector.
    collector: Setup,
    size_bytes: u64,
    /// Always there but while it restarts.
    daemon: Option<Daemon>,
}

impl Mvps {
    fn daemon(&self) -> Result<&Daemon> {
        self.daemon.as_ref().context("no daemon runs")
    }
}

impl Contestant {
    /// A daemon on `store` with an empty buffer below `place`.
    ///
    /// # Errors
    /// If it does not start.
    pub fn mvps(
        binaries: &Binaries,
        store: ObjectStore,
        place: &Path,
        size_bytes: u64,
    ) -> Result<Self> {
        let setup = Setup::new(&binaries.mvps, store, &place.join("mvps"))?;
        let mvps = Mvps {
            daemon: Some(setup.start()?),
            collector: Setup {
                binary: binaries.collector.clone(),
                ..setup.clone()
            },
            setup,
            size_bytes,
        };
        Ok(Self {
            who: Who::Mvps(Box::new(mvps)),
            place: place.to_owned(),
        })
    }

    /// `qemu-nbd` on a raw file below `place`, which takes no room yet.
    ///
    /// # Errors
    /// If it does not start.
    pub fn raw(place: &Path, size_bytes: u64) -> Result<Self> {
        let server = StandIn::start(StandInKind::QemuNbd, place, "raw", size_bytes)?;
        Ok(Self {
            who: Who::Raw(server),
            place: place.to_owned(),
        })
    }

    /// Its column.
    pub fn side(&self) -> Side {
        match self.who {
            Who::Mvps(_) => Side::Mvps,
            Who::Raw(_) => Side::Other,
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self.who {
            Who::Mvps(_) => "mvps",
            Who::Raw(_) => StandInKind::QemuNbd.name(),
        }
    }

    fn uri(&self) -> Result<String> {
        Ok(match &self.who {
            Who::Mvps(mvps) => {
                let claims = Claims::image(IMAGE, mvps.size_bytes);
                mvps.daemon()?.uri_for(&claims)
            }
            Who::Raw(server) => server.uri(),
        })
    }

    fn process(&self) -> Result<u32> {
        Ok(match &self.who {
            Who::Mvps(mvps) => mvps.daemon()?.process(),
            Who::Raw(server) => server.process(),
        })
    }

    /// Checkpoints everything; a raw file has nothing of the kind.
    ///
    /// # Errors
    /// If the daemon refuses.
    pub fn checkpoint(&self) -> Result<()> {
        let Who::Mvps(mvps) = &self.who else {
            return Ok(());
        };
        // An image that nobody uses for a minute is closed, and what is closed takes no request.
        let mut open = fio::nbd(&self.uri()?);
        open.args(["--name=open", "--rw=read", "--bs=4k", "--size=4k"]);
        fio::jobs(&mut open, SLACK)?;
        mvps.daemon()?.checkpoint(IMAGE)?;
        Ok(())
    }

    /// The state in which rows begin and end: nothing waits for the object store or the disk, and
    /// what no version needs is deleted, so that the disk does not fill over the rows.
    ///
    /// # Errors
    /// If something does not run.
    pub fn settle(&self) -> Result<()> {
        self.checkpoint()?;
        if let Who::Mvps(mvps) = &self.who {
            let flags = ["--threshold-inactive-days", "0"];
            mvps.collector.operate(&flags)?;
        }
        host::sync_file_system(&self.place)
    }

    /// Stops the daemon clean and starts it again: what it had in memory is gone. Nothing happens
    /// to a raw file, whose pages are the system's and not the server's.
    ///
    /// # Errors
    /// If it does not stop or start.
    pub fn restart(&mut self) -> Result<()> {
        if let Who::Mvps(mvps) = &mut self.who {
            mvps.daemon.take().context("no daemon runs")?.stop()?;
            mvps.daemon = Some(mvps.setup.start()?);
        }
        Ok(())
    }

    /// The image's newest version; `None` while it is not open, and for a raw file.
    fn version(&self) -> Result<Option<u64>> {
        let Who::Mvps(mvps) = &self.who else {
            return Ok(None);
        };
        let status = mvps.daemon()?.status()?;
        let image = status["images"].as_array().and_then(|all| all.first());
        Ok(image.and_then(|image| image["published_version"].as_u64()))
    }

    /// Bytes that its process had the disk write.
    fn written_bytes(&self) -> Result<u64> {
        process::written_bytes(self.process()?)
    }

    /// Runs fio with `row` and `further` arguments; notes nothing but what fio says.
    ///
    /// # Errors
    /// If fio fails.
    pub fn run(&self, row: &Row, seed: u32, further: &[String]) -> Result<Run> {
        run(&self.uri()?, row, seed, further)
    }

    /// Runs a row and notes everything. With `then_settled`, what the server writes until it has
    /// settled again counts: all that the row causes, not only what it caused before it ended.
    ///
    /// # Errors
    /// If something does not run.
    pub fn measure(
        &self,
        row: &Row,
        seed: u32,
        further: &[String],
        then_settled: bool,
    ) -> Result<Run> {
        process::forget_highest_memory(self.process()?)?;
        let (written, version) = (self.written_bytes()?, self.version()?);
        let device = host::device_written_bytes(&self.place)?;
        let mut run = self.run(row, seed, further)?;
        run.memory_bytes = Some(process::memory_bytes(self.process()?)?.1);
        let published = self.version()?.zip(version);
        run.versions = published.map(|(after, before)| after.saturating_sub(before));
        let mut device_bytes = None;
        if then_settled {
            self.settle()?;
            // Only then nothing is left in the page cache that the device has yet to write.
            let after = host::device_written_bytes(&self.place)?;
            device_bytes = after.zip(device).map(|(after, before)| after - before);
        }
        run.note_local_bytes(self.written_bytes()? - written, device_bytes);
        Ok(run)
    }

    /// Writes noise over the first `size_bytes`.
    ///
    /// # Errors
    /// If fio fails.
    pub fn fill(&self, size_bytes: u64) -> Result<()> {
        fill(&self.uri()?, size_bytes)
    }
}

/// Writes noise over the first `size_bytes` of a disk.
///
/// # Errors
/// If fio fails.
pub fn fill(uri: &str, size_bytes: u64) -> Result<()> {
    let mut fill = fio::nbd(uri);
    fill.args(["--name=fill", "--rw=write", "--bs=1m", "--iodepth=8"]);
    fill.args(["--refill_buffers", &format!("--size={size_bytes}")]);
    fio::jobs(&mut fill, SLACK)?;
    Ok(())
}

/// Runs fio with `row` and `further` arguments on a disk.
///
/// # Errors
/// If fio fails.
pub fn run(uri: &str, row: &Row, seed: u32, further: &[String]) -> Result<Run> {
    let mut command = fio::nbd(uri);
    command.args(row.arguments(seed)).args(further);
    let jobs = fio::jobs(&mut command, SLACK)?;
    Ok(Run::of_job(jobs.first().context("a job of fio")?, row.unit))
}

/// The arguments that keep a row inside the first `size_bytes`, for `seconds`.
pub fn timed(size_bytes: u64, seconds: u64) -> Vec<String> {
    vec![
        format!("--size={size_bytes}"),
        "--time_based".to_owned(),
        format!("--runtime={seconds}"),
    ]
}
