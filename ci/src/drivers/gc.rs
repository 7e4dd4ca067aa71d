//! `cargo ci gc`: the collector on a bucket that a running daemon fills, dry and real, two at
//! once; then `mvps check` reads everything, and so does a client.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mvps_core::client::Client;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::rig::client::attach;
use crate::rig::command;
use crate::rig::daemon::{Daemon, Setup};
use crate::rig::numbers::Numbers;
use crate::rig::object_server::ObjectServer;
use crate::rig::report::Report;
use crate::rig::token::Claims;
use crate::rig::workspace::{self, Binary};

/// The size of the image.
const DISK_BYTES: u64 = 32 * 1024 * 1024;

/// The size of a write.
const BLOCK_BYTES: usize = 64 * 1024;

/// Checkpoints between two collections.
const CHECKPOINTS: u64 = 12;

/// Rounds of writing with two collectors beside it.
const ROUNDS: u64 = 3;

/// How long one collection or check may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The name of the image.
const IMAGE: &str = "c";

/// Its snapshot, after half of the writes.
const HALF: &str = "c@half";

/// Runs the collector dry, for real, and twice at once, then reads everything.
///
/// # Errors
/// If the collector deletes what is needed, or leaves what is not.
pub fn run(binary: &Binary) -> Result<()> {
    let mvps = binary.path()?;
    let collector = workspace::build("mvps-gc", binary.profile)?;
    let directory = TempDir::with_prefix("mvps-ci-gc")?;
    let server = ObjectServer::start(&directory.path().join("server"))?;
    let setup = Setup::new(&mvps, server.store("gc/"), directory.path())?;
    let mut bench = Bench {
        daemon: setup.start()?,
        collector: Setup {
            binary: collector,
            ..setup
        },
        runtime: Runtime::new()?,
        content: vec![0; usize::try_from(DISK_BYTES)?],
        half: None,
        numbers: Numbers::new(7),
    };
    let mut report = Report::default();
    report.check("gc", "a dry run foretells, a real one does it", || {
        bench.dry_and_real()
    });
    report.check("gc", "two collectors beside a writing server", || {
        bench.two_at_once()
    });
    report.check("gc", "everything reads back elsewhere", || {
        bench.elsewhere(directory.path())
    });
    report.finish("cargo ci gc")
}

fn count(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or(0)
}

struct Bench {
    daemon: Daemon,
    collector: Setup,
    runtime: Runtime,
    content: Vec<u8>,
    /// What the snapshot holds.
    half: Option<Vec<u8>>,
    numbers: Numbers,
}

impl Bench {
    fn attach(&self) -> Result<Client> {
        let claims = Claims::image(IMAGE, DISK_BYTES);
        Ok(self
            .runtime
            .block_on(attach(self.daemon.setup(), &claims))?)
    }

    /// Overwrites at random, with a checkpoint after every few writes.
    fn write(&mut self, client: &Client, checkpoints: u64) -> Result<()> {
        for _ in 0..checkpoints {
            for _ in 0..16 {
                let block = self.numbers.below(DISK_BYTES / BLOCK_BYTES as u64);
                let from = usize::try_from(block)? * BLOCK_BYTES;
                self.numbers
                    .fill(&mut self.content[from..from + BLOCK_BYTES]);
                let data = self.content[from..from + BLOCK_BYTES].to_vec();
                let written = client.write(from as u64, data.into(), false);
                self.runtime.block_on(written)?;
            }
            self.daemon.checkpoint(IMAGE)?;
        }
        Ok(())
    }

    /// Makes garbage: segments that no version needs once those between are forgotten.
    fn write_what_is_rolled_back(&mut self, client: &Client) -> Result<()> {
        self.half.get_or_insert_with(|| self.content.clone());
        self.write(client, CHECKPOINTS / 2)?;
        let words = ["image", "rollback", HALF];
        self.daemon.setup().operate(&words)?;
        self.content = self.half.clone().context("the snapshot's content")?;
        // What the rollback let go of leaves the retired list with the next publication.
        self.write(client, 1)
    }

    fn collection(&self, flags: &[&str]) -> Command {
        let mut command = self.collector.command(&["--threshold-inactive-days", "0"]);
        command.args(["--output", "json"]).args(flags);
        command
    }

    fn collect(&self, flags: &[&str]) -> Result<Value> {
        let output = command::run(&mut self.collection(flags), LIMIT)?.stdout;
        let report: Value = serde_json::from_str(&output).context("not JSON")?;
        Ok(report["images"][0].clone())
    }

    /// Runs `mvps check --all --read-data`; returns how many objects nothing references.
    fn check(&self) -> Result<u64> {
        let words = ["check", "--all", "--read-data", "--output", "json"];
        let output = self.daemon.setup().operate(&words)?.stdout;
        let report: Value = serde_json::from_str(&output).context("not JSON")?;
        let image = &report["images"][0];
        let verified = image["data_bytes_verified"].as_u64().unwrap_or(0);
        ensure!(verified > 0, "no data was verified: {report}");
        image["leaks"]["garbage"]
            .as_u64()
            .context("counts of leaks")
    }

    fn dry_and_real(&mut self) -> Result<String> {
        let client = self.attach()?;
        self.write(&client, CHECKPOINTS / 2)?;
        self.daemon.setup().operate(&["snapshot", "create", HALF])?;
        self.write_what_is_rolled_back(&client)?;
        self.check()?;
        let foretold = self.collect(&["--dry-run"])?;
        let again = self.collect(&["--dry-run"])?;
        ensure!(
            foretold == again,
            "a dry run changed something: {foretold} {again}"
        );
        let done = self.collect(&[])?;
        for name in ["versions_forgotten", "objects_deleted", "manifests_deleted"] {
            let (said, did) = (count(&foretold, name), count(&done, name));
            ensure!(
                said == did && did > 0,
                "{name}: {said} foretold, {did} done"
            );
        }
        ensure!(self.check()? == 0, "garbage is left");
        self.verify(&client)?;
        self.runtime.block_on(client.disconnect());
        Ok(format!(
            "{} versions, {} objects, {} manifests",
            count(&done, "versions_forgotten"),
            count(&done, "objects_deleted"),
            count(&done, "manifests_deleted")
        ))
    }

    fn two_at_once(&mut self) -> Result<String> {
        let client = self.attach()?;
        let mut deleted = 0;
        for _ in 0..ROUNDS {
            let mut beside = Vec::new();
            for _ in 0..2 {
                let mut command = self.collection(&[]);
                beside.push(command.stdout(Stdio::null()).spawn()?);
            }
            self.write_what_is_rolled_back(&client)?;
            for child in &mut beside {
                let status = command::wait_within(child, LIMIT)?.context("it hangs")?;
                ensure!(status.success(), "a collector ended with {status}");
            }
            deleted += count(&self.collect(&[])?, "objects_deleted");
            ensure!(self.check()? == 0, "garbage is left");
        }
        ensure!(deleted > 0, "the last collectors found nothing to delete");
        self.verify(&client)?;
        self.runtime.block_on(client.disconnect());
        Ok(format!(
            "{ROUNDS} rounds, {deleted} objects left to the last"
        ))
    }

    fn verify(&self, client: &Client) -> Result<()> {
        for (block, expected) in self.content.chunks(BLOCK_BYTES).enumerate() {
            let at = (block * BLOCK_BYTES) as u64;
            let found = self
                .runtime
                .block_on(client.read(at, u32::try_from(expected.len())?))?;
            ensure!(found == expected, "the disk differs at {at}");
        }
        Ok(())
    }

    /// A server with an empty buffer store has nothing but what the collector left.
    fn elsewhere(&mut self, directory: &Path) -> Result<String> {
        let mut setup = self.daemon.setup().clone();
        setup.buffer = directory.join("elsewhere");
        setup.listen = crate::rig::daemon::Listen::free_port()?;
        self.daemon.checkpoint(IMAGE)?;
        let words = ["image", "takeover", IMAGE];
        setup.operate(&words)?;
        self.daemon = setup.start()?;
        let client = self.attach()?;
        self.verify(&client)?;
        self.runtime.block_on(client.disconnect());
        self.collect(&[])?;
        ensure!(self.check()? == 0, "garbage is left");
        Ok(format!("{} MiB", DISK_BYTES >> 20))
    }
}
