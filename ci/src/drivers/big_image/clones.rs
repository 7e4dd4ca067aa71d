//! Snapshots and clones of the big image: what one costs, what many take together, and what is left
//! when all but one are deleted.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mvps_core::format::manifest::Manifest;
use mvps_core::format::object_name::parse_manifest_key;
use mvps_core::ids::ImageId;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::image::{IMAGE, Options, PREFIX, read_all_over};
use crate::rig::client::attach;
use crate::rig::command;
use crate::rig::daemon::{Daemon, Setup};
use crate::rig::object_server::ObjectServer;
use crate::rig::token::Claims;

/// A small image, whose snapshot and clone take as many requests if the size does not matter.
const SMALL: &str = "small";

/// How long making a snapshot or a clone may take, from the start of the command to its end.
const COMMAND_LIMIT: Duration = Duration::from_millis(100);

/// Requests by which a big image's snapshot or clone may exceed a small one's: the page of a
/// listing that somebody else's publication adds.
const REQUESTS_SLACK: u64 = 2;

/// How much of the image's bytes all clones may add, in thousandths.
const CLONES_PER_MILLE_MOST: u64 = 10;

/// How long a collection or a check may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Passes after which nothing may be left to do.
const PASSES_MAX: usize = 4;

/// Pages of the last clone that are read in the end.
const READS: u64 = 2000;

/// A page that the source overwrites, and one that the last clone does.
const SOURCE_PAGE: u64 = 4;
const CLONE_PAGE: u64 = 8;

/// The big image with its snapshots and clones.
pub struct Clones<'a> {
    pub runtime: &'a Runtime,
    pub server: &'a mut ObjectServer,
    pub setup: Setup,
    pub collector: Setup,
    pub options: &'a Options,
}

/// What one command took.
struct Cost {
    elapsed: Duration,
    requests: u64,
}

impl Clones<'_> {
    fn clone_name(number: u32) -> String {
        format!("c{number}")
    }

    fn cost(&mut self, words: &[&str]) -> Result<Cost> {
        let before = self.server.requests()?;
        let elapsed = self.setup.operate(words)?.elapsed;
        let requests = self.server.requests()?.since(before).total;
        Ok(Cost { elapsed, requests })
    }

    fn write(&self, image: &str, page: u64, stamp: u64) -> Result<()> {
        let mut data = vec![0; 4096];
        data[..8].copy_from_slice(&stamp.to_le_bytes());
        self.runtime.block_on(async {
            let claims = Claims::image(image, self.options.size_gib << 30);
            let client = attach(&self.setup, &claims).await?;
            client.write(page << 12, data.into(), true).await?;
            client.disconnect().await;
            Ok(())
        })
    }

    /// A snapshot and a clone of it, each beside those of a small image.
    pub fn costs(&mut self) -> Result<String> {
        self.write(SMALL, 0, 1)?;
        // What was written is not to be counted with the snapshot.
        self.setup.operate(&["checkpoint", SMALL])?;
        let mut costs = Vec::new();
        for (image, clone) in [(SMALL, "small-c"), (IMAGE, "c0")] {
            let snapshot = format!("{image}@first");
            costs.push(self.cost(&["snapshot", "create", &snapshot])?);
            costs.push(self.cost(&["image", "clone", &snapshot, clone])?);
        }
        let seen = |cost: &Cost| {
            let milliseconds = cost.elapsed.as_secs_f64() * 1e3;
            format!("{milliseconds:.0} ms, {} requests", cost.requests)
        };
        let [small_snapshot, small_clone, snapshot, clone] = &costs[..] else {
            bail!("four commands");
        };
        let said = format!(
            "snapshot {} (small image: {}), clone {} (small image: {})",
            seen(snapshot),
            seen(small_snapshot),
            seen(clone),
            seen(small_clone)
        );
        let good = |big: &Cost, small: &Cost| {
            big.elapsed <= COMMAND_LIMIT && big.requests <= small.requests + REQUESTS_SLACK
        };
        let is_good = good(snapshot, small_snapshot) && good(clone, small_clone);
        ensure!(is_good, "{said}");
        Ok(said)
    }

    /// The other clones, and what all of them add to the bucket.
    pub fn share(&mut self) -> Result<String> {
        let snapshot = format!("{IMAGE}@first");
        let before = self.server.listing(PREFIX)?.values().sum::<u64>();
        for number in 1..self.options.clones {
            let clone = Self::clone_name(number);
            self.setup.operate(&["image", "clone", &snapshot, &clone])?;
        }
        let after = self.server.listing(PREFIX)?.values().sum::<u64>();
        let said = format!(
            "{} clones: {before} bytes in the bucket with the first, {after} with all",
            self.options.clones
        );
        let most = before + before * CLONES_PER_MILLE_MOST / 1000;
        ensure!(after <= most, "{said}");
        Ok(said)
    }

    /// Source and last clone diverge; the source and all other clones are deleted and collected.
    pub fn leave_one(&mut self, daemon: Daemon) -> Result<String> {
        let last = Self::clone_name(self.options.clones - 1);
        self.write(IMAGE, SOURCE_PAGE, u64::MAX)?;
        self.write(&last, CLONE_PAGE, u64::MAX)?;
        daemon.stop()?;
        let others = (0..self.options.clones - 1).map(Self::clone_name);
        let others = others.chain([IMAGE, SMALL, "small-c"].map(str::to_owned));
        for image in others {
            self.setup.operate(&["image", "delete", &image])?;
        }
        let deleted = self.gc()?;
        let (objects, bytes) = self.must_be_exact(&last)?;
        self.check()?;
        let daemon = self.setup.start()?;
        let claims = Claims::image(&last, self.options.size_gib << 30);
        let client = self.runtime.block_on(attach(&self.setup, &claims))?;
        let except = [CLONE_PAGE];
        read_all_over(self.runtime, &client, self.options, READS, &except)?;
        for (page, expected) in [(SOURCE_PAGE, SOURCE_PAGE + 1), (CLONE_PAGE, u64::MAX)] {
            let data = self.runtime.block_on(client.read(page << 12, 8))?;
            let stamp = u64::from_le_bytes(data[..].try_into()?);
            ensure!(stamp == expected, "page {page} of {last} holds {stamp}");
        }
        self.runtime.block_on(client.disconnect());
        daemon.stop()?;
        Ok(format!(
            "{deleted} objects deleted; {objects} with {bytes} bytes left, exactly those of {last}"
        ))
    }

    /// Collects until nothing is left to do; how many objects went.
    fn gc(&self) -> Result<u64> {
        let mut deleted = 0;
        for _ in 0..PASSES_MAX {
            let mut command = self.collector.command(&["--threshold-inactive-days", "0"]);
            let output = command::run(command.args(["--output", "json"]), LIMIT)?.stdout;
            let report: Value = serde_json::from_str(&output).context("not JSON")?;
            let images = report["images"].as_array().context("images")?;
            let sum = |name: &str| -> u64 {
                let numbers = images.iter().map(|image| image[name].as_u64());
                numbers.flatten().sum()
            };
            deleted += sum("objects_deleted");
            if sum("objects_deleted") + sum("manifests_deleted") + sum("versions_forgotten") == 0 {
                return Ok(deleted);
            }
        }
        bail!("the collector finds something to do again and again")
    }

    /// The data objects in the bucket are those that the newest manifest of `image` names, with
    /// their lengths; how many, and their bytes.
    fn must_be_exact(&self, image: &str) -> Result<(usize, u64)> {
        let listing = self.server.listing(PREFIX)?;
        let image = ImageId::parse(image)?;
        let mut versions = listing.keys().filter_map(|key| {
            let (owner, version) = parse_manifest_key(key).ok()?;
            (owner == image).then_some((version, key))
        });
        // The newest is the first of a listing.
        let (version, key) = versions.next().context("a manifest")?;
        let body = self.server.read(PREFIX, key)?;
        let manifest = Manifest::decode(&image, version, &body)?;
        let segments = manifest.segments.iter();
        let segments = segments.map(|entry| (entry.name.key(), entry.size_bytes));
        let maps = manifest.maps.iter();
        let maps = maps.map(|entry| (entry.name.key(), entry.size_bytes));
        let needed: BTreeSet<(String, u64)> = segments.chain(maps).collect();
        let is_data = |key: &str| key.contains("/objects/");
        let data = listing.into_iter().filter(|(key, _)| is_data(key));
        let found: BTreeSet<(String, u64)> = data.collect();
        let missing: Vec<_> = needed.difference(&found).take(5).collect();
        ensure!(missing.is_empty(), "missing: {missing:?}");
        let too_much: Vec<_> = found.difference(&needed).take(5).collect();
        ensure!(too_much.is_empty(), "not needed: {too_much:?}");
        Ok((found.len(), found.iter().map(|(_, bytes)| bytes).sum()))
    }

    fn check(&self) -> Result<()> {
        let words = ["check", "--all", "--output", "json"];
        let output = command::run(&mut self.setup.command(&words), LIMIT)?.stdout;
        let report: Value = serde_json::from_str(&output).context("not JSON")?;
        for image in report["images"].as_array().context("images")? {
            let leaks = &image["leaks"];
            let is_clean = leaks["garbage"] == 0 && leaks["unsettled"] == 0;
            ensure!(is_clean, "mvps check: {image}");
        }
        Ok(())
    }
}
