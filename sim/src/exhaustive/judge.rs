//! What happens in a world after the first server stopped, and the oracles.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use mvps_core::admin;
use mvps_core::engine::{Acknowledge, Attachment, Durability, EngineError, Host, OpenError, open};
use mvps_core::env::memory::{Crash, MemoryBufferStores, SeededEntropy};
use mvps_core::format::manifest::{ImageState, Manifest};
use mvps_core::format::object_name::{manifests_prefix, parse_manifest_key};
use mvps_core::protocol::{ManifestStore, OpeningError};

use super::executor::{Pause, ProcessId};
use super::point::{Disk, Fate, Point};
use super::process::{Process, config, image_id, opening_request, process};
use super::progress::Known;
use super::workload::{Image, PAGES, page_size};
use super::world::{LIMIT, World};
use crate::model::content::{Effect, stamped};

/// A superseded server that reaches the store must know after so long (protocol §3.8).
const FENCED_WITHIN: std::time::Duration = std::time::Duration::from_secs(11);

/// The number of the write by which the second server shows that it works.
const LAST_WORD: u64 = 1000;

/// Lets the world go on after its first server stopped, and judges it.
pub(super) fn judge(world: &mut World, point: Point) -> Result<(), String> {
    if point.fate.sleeps() {
        world.shared.note("world", "first sleeps");
        world.executor.freeze(world.first.id);
    } else {
        world.shared.note("world", "first is killed");
        world.executor.kill(world.first.id);
    }
    let disk = world.disk_after(point.disk);
    let (second, attachment) = world.recover(point.disk, &disk)?;
    let found = world.read(&second, &attachment)?;
    let image = world.explain(point.disk, &found)?;
    world.intrude(
        point.fate,
        Fate::LateAfterOpening,
        Fate::SleptThroughTakeover,
    )?;
    let now = world.read(&second, &attachment)?;
    if now != found {
        return Err("oracle 6: what was read after the opening has changed".to_owned());
    }
    let image = world.write(&second, &attachment, &image)?;
    world.intrude(
        point.fate,
        Fate::LateAfterCheckpoint,
        Fate::SleptThroughCheckpoint,
    )?;
    let now = world.read(&second, &attachment)?;
    if !image.is(&now) {
        return Err("oracle 6: what was checkpointed has changed".to_owned());
    }
    world.close(&second, attachment)?;
    world.read_elsewhere(&image)
}

impl World {
    fn disk_after(&self, disk: Disk) -> MemoryBufferStores {
        match disk {
            Disk::Kept => {
                let entropy = SeededEntropy::new(0);
                self.disk.crash(Crash::ProcessKill, &entropy);
                self.disk.clone()
            }
            Disk::Torn { kept, drops_stay } => {
                self.disk.cut_power(&image_id(), kept, drops_stay);
                self.disk.clone()
            }
            Disk::Lost => MemoryBufferStores::new(),
        }
    }

    /// The newest manifest, as it is stored.
    fn newest(&self) -> Result<Option<Manifest>, String> {
        let prefix = manifests_prefix(&image_id());
        let keys = self.shared.objects.keys();
        // The newest one sorts first.
        let Some(key) = keys.into_iter().find(|key| key.starts_with(&prefix)) else {
            return Ok(None);
        };
        let broken = |error: &dyn std::fmt::Display| format!("oracle 8: {key}: {error}");
        let (image, version) = parse_manifest_key(&key).map_err(|error| broken(&error))?;
        let body = self.shared.objects.peek(&key).expect("it was listed");
        let manifest = Manifest::decode(&image, version, &body);
        manifest.map(Some).map_err(|error| broken(&error))
    }

    /// The second server opens the image; on an empty disk the operator helps where he must.
    fn recover(
        &mut self,
        fate: Disk,
        disk: &MemoryBufferStores,
    ) -> Result<(Process, Attachment), String> {
        let mut second = process(&self.shared, (ProcessId(2), "second"), disk, None, None);
        if fate == Disk::Lost {
            let is_served = self
                .newest()?
                .is_some_and(|newest| newest.state == ImageState::Active);
            if is_served {
                match self.open(&second)? {
                    Err(OpenError::Opening(OpeningError::Refused(_))) => {}
                    Ok(_) => return Err("oracle 2: opened, with the loss undeclared".to_owned()),
                    Err(error) => return Err(format!("oracle 11 (liveness): {error}")),
                }
                self.take_over(&second)?;
                self.executor.kill(second.id);
                second = process(&self.shared, (ProcessId(3), "second"), disk, None, None);
            }
        }
        match self.open(&second)? {
            Ok(attachment) => Ok((second, attachment)),
            Err(error) => Err(format!("oracle 11 (liveness): not opened: {error}")),
        }
    }

    fn open(&mut self, process: &Process) -> Result<Result<Attachment, OpenError>, String> {
        let shape = self.shared.shape;
        let host = Host::new(process.environment.clone(), config(shape).cache_bytes);
        self.finish(process, "opening", async move {
            let image = open(&host, &opening_request(shape), config(shape)).await?;
            Ok(image.attach())
        })
    }

    fn take_over(&mut self, process: &Process) -> Result<(), String> {
        let cache_bytes = config(self.shared.shape).cache_bytes;
        let host = Host::new(process.environment.clone(), cache_bytes);
        let taken = self.finish(process, "takeover", async move {
            let manifests = ManifestStore::new(host.store.clone());
            let (clock, entropy) = (&host.environment.clock, &host.environment.entropy);
            admin::takeover(&manifests, &**clock, &**entropy, &image_id()).await
        })?;
        taken
            .map(drop)
            .map_err(|error| format!("oracle 11 (liveness): takeover: {error}"))
    }

    fn read(&mut self, process: &Process, attachment: &Attachment) -> Result<Bytes, String> {
        let attachment = attachment.image().attach();
        let first = self.shared.shape.offset();
        let length = u32::try_from(PAGES << page_size().bits()).expect("a few pages");
        let read = self.finish(process, "reading", async move {
            attachment.read(first, length).await
        })?;
        read.map(mvps_core::content::Content::into_bytes)
            .map_err(|error| format!("oracle 8: {error}"))
    }

    /// The state of the workload that `found` is: one that the promises allow.
    fn explain(&self, disk: Disk, found: &Bytes) -> Result<Image, String> {
        let newest = self.newest()?.expect("an open image has a manifest");
        let known = self.progress.known();
        // What the second server published so far changed nothing: it holds what it was opened
        // with.
        let published = known.image_at(newest.lsn);
        let allowed = match disk {
            Disk::Kept => &known.images[known.acknowledged..],
            Disk::Torn { .. } => &known.images[known.durable..],
            Disk::Lost => &known.images[published..=published],
        };
        if disk == Disk::Lost {
            promised(&known, &known.images[published])?;
        }
        let fits = |image: &&Image| image.is(found);
        if let Some(image) = allowed.iter().find(fits) {
            return Ok(image.clone());
        }
        let is = known.images.iter().position(|image| image.is(found));
        let last = known.images.len() - 1;
        Err(match is {
            Some(is) => format!(
                "oracle 1 (survival): the state after operation {is} of {last}, with {} \
                 acknowledged, {} durable, {published} published",
                known.acknowledged, known.durable
            ),
            None => "oracle 2, 3 (prefix, atomicity): no state of the workload".to_owned(),
        })
    }

    /// What was under way lands late, or the first server wakes up, if this is the moment.
    fn intrude(&mut self, fate: Fate, late: Fate, slept: Fate) -> Result<(), String> {
        if fate == late {
            let request = self.first.gate.take_late();
            let request = request.ok_or("no request was under way")?;
            let (kind, key) = (request.kind(), request.key().to_owned());
            let reply = request.carry_out(&*self.shared.objects).now_or_never();
            let reply = reply.expect("a store in memory does not wait");
            let landed = format!("{} {key} lands late: {:?}", kind.name(), reply.err());
            self.shared.note("world", &landed);
        }
        if fate == slept {
            self.wake()?;
        }
        Ok(())
    }

    /// The first server goes on until its workload ends; then it must learn that it is fenced.
    fn wake(&mut self) -> Result<(), String> {
        self.shared.note("world", "first wakes up");
        self.executor.thaw(self.first.id);
        let progress = Arc::clone(&self.progress);
        let deadline = self.shared.handle.now() + LIMIT;
        let ended = || progress.known().end.is_some();
        if self.executor.run(deadline, ended) == Pause::Idle {
            return Err("oracle 11 (liveness): the superseded server hangs".to_owned());
        }
        let Some(attachment) = progress.known().attachment.take() else {
            return Ok(());
        };
        let clock = Arc::clone(&self.first.environment.clock);
        let first = (self.first.id, self.first.name);
        let offset = self.shared.shape.offset();
        let written = self.finish_as(first, "writing", async move {
            clock.sleep(FENCED_WITHIN).await;
            let data = stamped(LAST_WORD + 1, 0, page_size().bytes(), true);
            attachment.write(offset, data, Acknowledge::Buffered).await
        })?;
        match written {
            Err(EngineError::Fenced { .. } | EngineError::Closed) => Ok(()),
            Err(error) => Err(format!("oracle 7 (fencing): it is told {error}")),
            Ok(()) => Err("oracle 7 (fencing): a fenced writer acknowledges a write".to_owned()),
        }
    }

    /// The second server writes and checkpoints. Returns what the image is then.
    fn write(
        &mut self,
        process: &Process,
        attachment: &Attachment,
        before: &Image,
    ) -> Result<Image, String> {
        let page = page_size().bytes();
        // Half of a page: the other half comes from wherever the page is.
        let offset = (2 * page + page / 2) as u64;
        let data = stamped(LAST_WORD, offset, page, true);
        let image = before.after(&[Effect::Write(offset, data.clone())]);
        let attachment = attachment.image().attach();
        let offset = self.shared.shape.offset() + offset;
        let written = self.finish(process, "writing", async move {
            let when = Acknowledge::Durable(Durability::Local);
            attachment.write(offset, data, when).await?;
            attachment.image().checkpoint().await
        })?;
        match written {
            Ok(_) => Ok(image),
            Err(error) => Err(format!("oracle 11 (liveness): the second server: {error}")),
        }
    }

    fn close(&mut self, process: &Process, attachment: Attachment) -> Result<(), String> {
        let image = attachment.image().clone();
        drop(attachment);
        let closed = self.finish(process, "closing", async move { image.close().await })?;
        closed.map_err(|error| format!("oracle 11 (liveness): closing: {error}"))
    }

    /// An image that was closed opens anywhere, and is what it was.
    fn read_elsewhere(&mut self, image: &Image) -> Result<(), String> {
        let disk = MemoryBufferStores::new();
        let third = process(&self.shared, (ProcessId(4), "third"), &disk, None, None);
        let attachment = self
            .open(&third)?
            .map_err(|error| format!("oracle 11 (liveness): a clean image: {error}"))?;
        let found = self.read(&third, &attachment)?;
        if image.is(&found) {
            Ok(())
        } else {
            Err("oracle 6: another machine reads something else".to_owned())
        }
    }
}

/// What was acknowledged as checkpointed is in what is published.
fn promised(known: &Known, published: &Image) -> Result<(), String> {
    let allowed = &known.images[known.published..];
    if allowed.contains(published) {
        Ok(())
    } else {
        Err("oracle 1 (survival): what was checkpointed is not published".to_owned())
    }
}
