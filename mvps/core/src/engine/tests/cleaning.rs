//! Cleaning of an image, beside a model of its pages.

use std::collections::BTreeSet;
use std::time::Duration;

use super::world::{Machine, PAGE, World, config, image, read, read_all, write};
use crate::engine::{Acknowledge, Attachment, CompactionSettings, EngineConfig, ImageStatus};
use crate::env::memory::{MemoryObjectStore, SeededEntropy, Verdict};
use crate::env::{EntropyExt, ObjectStore, OperationKind};
use crate::format::manifest::Manifest;
use crate::format::object_name::objects_prefix;
use crate::protocol::ManifestStore;

/// Pages of the image that these tests use.
const PAGES: u64 = 320;

/// So that a few pages make a segment worth cleaning, and a few segments a map compaction.
pub fn eager() -> EngineConfig {
    EngineConfig {
        compression: None,
        compaction: CompactionSettings {
            clean_above_percent: 110,
            clean_down_to_percent: 105,
            step_bytes: 24 << 12,
            compact_map_for_space_bytes: 1 << 12,
            tail_segments_worth_compaction: 3,
            small_segments_max: 6,
            ..CompactionSettings::default()
        },
        ..config()
    }
}

pub async fn open_eager(machine: &Machine) -> Attachment {
    let image = machine.try_open(eager()).await;
    image.expect("the image opens").attach()
}

/// Every page of the image, as it should be.
#[derive(Clone)]
pub struct Model(pub Vec<u8>);

impl Model {
    pub fn new() -> Self {
        Self(vec![0; PAGES as usize])
    }

    pub async fn write(
        &mut self,
        disk: &Attachment,
        pages: impl IntoIterator<Item = u64>,
        byte: u8,
    ) {
        for number in pages {
            write(disk, number, byte).await;
            self.0[number as usize] = byte;
        }
    }

    pub async fn trim(&mut self, disk: &Attachment, first: u64, count: u64) {
        let page = PAGE as u64;
        disk.trim(first * page, count * page, Acknowledge::Buffered)
            .await
            .expect("a trim");
        self.0[first as usize..(first + count) as usize].fill(0);
    }

    pub async fn check(&self, disk: &Attachment) {
        let length = PAGES as u32 * PAGE as u32;
        let content = disk.read(0, length).await;
        let content = content.expect("the image can be read").into_bytes();
        for (number, (page, expected)) in content.chunks(PAGE).zip(&self.0).enumerate() {
            assert!(
                page == [*expected; PAGE],
                "page {number}: {} is not {expected}",
                page[0]
            );
        }
    }
}

pub async fn status(disk: &Attachment) -> ImageStatus {
    disk.image().status().await.expect("it is open")
}

/// Waits until cleaning has nothing more to do.
pub async fn rest(disk: &Attachment) {
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!status(disk).await.publishing);
}

pub async fn newest(machine: &Machine) -> Manifest {
    let manifests = ManifestStore::new(machine.host.store.clone());
    let newest = manifests.newest(&image()).await.expect("it can be read");
    newest.expect("there is one")
}

/// Deletes everything that `newest` does not keep alive, as a collector that keeps no version.
pub async fn collect(objects: &MemoryObjectStore, newest: &Manifest) {
    let segments = newest.segments.iter().map(|it| it.name.key());
    let maps = newest.maps.iter().map(|it| it.name.key());
    let retired = newest.retired.iter().map(|it| it.name.key());
    let kept: BTreeSet<String> = segments.chain(maps).chain(retired).collect();
    let prefix = objects_prefix(&image());
    let listed = objects.list(&prefix, None, 1000).await.expect("a listing");
    let settled = |key: &str| {
        let name = crate::format::object_name::ObjectName::parse(key).expect("a name");
        let older = name.epoch < newest.tenure.epoch;
        older || name.epoch == newest.tenure.epoch && name.sequence < newest.watermark
    };
    let dead = listed.into_iter().map(|entry| entry.key);
    let dead: Vec<String> = dead
        .filter(|key| settled(key) && !kept.contains(key))
        .collect();
    objects.delete(&dead).await;
}

async fn bucket_bytes(objects: &MemoryObjectStore) -> u64 {
    let prefix = objects_prefix(&image());
    let listed = objects.list(&prefix, None, 1000).await.expect("a listing");
    listed.iter().map(|entry| entry.size).sum()
}

#[tokio::test(start_paused = true)]
async fn dead_space_is_won_back_and_nothing_else_changes() {
    let world = World::new();
    let machine = world.machine(1);
    let disk = open_eager(&machine).await;
    let mut model = Model::new();
    let entropy = SeededEntropy::new(9);
    let mut worked = false;
    for round in 1..60_u8 {
        let pages: Vec<u64> = (0..40).map(|_| entropy.below(200)).collect();
        model.write(&disk, pages, round).await;
        if round % 5 == 0 {
            let first = entropy.below(190);
            model.trim(&disk, first, 10).await;
        }
        disk.image().checkpoint().await.expect("a checkpoint");
        let seen = status(&disk).await;
        let at_work = seen.publishing || seen.space.cleaning_due;
        assert_eq!(seen.is_settled(), !at_work, "{seen:?}");
        worked |= at_work;
        if round % 3 == 0 {
            rest(&disk).await;
            assert!(status(&disk).await.is_settled());
            collect(&world.objects, &newest(&machine).await).await;
            model.check(&disk).await;
        }
    }
    rest(&disk).await;
    assert!(worked, "there was always nothing to clean");
    let manifest = newest(&machine).await;
    collect(&world.objects, &manifest).await;
    assert!(manifest.retired.is_empty(), "{:?}", manifest.retired);
    let space = status(&disk).await.space;
    assert!(space.copied_bytes > 0, "{space:?}");
    assert_eq!(space.cleaning_segments, 0);
    let live = model.0.iter().filter(|byte| **byte != 0).count() as u64;
    let stored: u32 = manifest.segments.iter().map(|it| it.pages).sum();
    assert!(
        u64::from(stored) * 10 <= live * 16,
        "{stored} pages for {live}"
    );
    assert!(bucket_bytes(&world.objects).await <= space.stored_bytes);
    model.check(&disk).await;
    disk.image().close().await.expect("it closes");
    model.check(&open_eager(&world.machine(2)).await).await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_was_cleaned_sends_nothing_more() {
    let world = World::new();
    let disk = open_eager(&world.machine(1)).await;
    let mut model = Model::new();
    for round in 1..8 {
        model.write(&disk, 0..50, round).await;
        disk.image().checkpoint().await.expect("a checkpoint");
    }
    rest(&disk).await;
    let before = world.objects.operations().len();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.objects.operations().len(), before);
}

#[tokio::test(start_paused = true)]
async fn without_cleaning_nothing_is_copied() {
    let world = World::new();
    let mut off = eager();
    off.compaction.cleaning = false;
    let image = world.machine(1).try_open(off).await.expect("it opens");
    let disk = image.attach();
    let mut model = Model::new();
    for round in 1..20 {
        model.write(&disk, (0..100).step_by(2), round).await;
        disk.image().checkpoint().await.expect("a checkpoint");
    }
    rest(&disk).await;
    assert_eq!(status(&disk).await.space.copied_bytes, 0);
    model.check(&disk).await;
}

/// Holds up the request number `skip` of `kind` to a segment, until the sender is used or dropped.
fn hold(world: &World, kind: OperationKind, skip: usize) -> tokio::sync::oneshot::Sender<()> {
    let (release, held) = tokio::sync::oneshot::channel();
    let (mut held, mut left) = (Some(held), skip);
    world.objects.set_script(move |operation| {
        if operation.kind != kind || !operation.key.ends_with(".segment") {
            return Verdict::Serve;
        }
        match held.take_if(|_| left == 0) {
            Some(held) => Verdict::Delay(Box::pin(async move {
                // A sender that is dropped releases too.
                let _ = held.await;
            })),
            None => {
                left = left.saturating_sub(1);
                Verdict::Serve
            }
        }
    });
    release
}

#[tokio::test(start_paused = true)]
async fn what_is_rewritten_or_trimmed_during_a_step_stays_so() {
    // The victim's index, its frames, and the copy (the checkpoint writes a segment before it).
    let instants = [
        (OperationKind::GetRange, 0),
        (OperationKind::GetRange, 1),
        (OperationKind::Put, 1),
    ];
    for (kind, skip) in instants {
        let world = World::new();
        let machine = world.machine(1);
        let disk = open_eager(&machine).await;
        let mut model = Model::new();
        model.write(&disk, 0..60, 1).await;
        disk.image().checkpoint().await.expect("a checkpoint");
        rest(&disk).await;
        model.write(&disk, 0..30, 2).await;
        let before = status(&disk).await.space.copied_bytes;
        let release = hold(&world, kind, skip);
        disk.image().checkpoint().await.expect("a checkpoint");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(status(&disk).await.publishing, "a step is held up");
        // One of the pages that are being copied is rewritten, some are trimmed.
        model.write(&disk, [33, 59], 3).await;
        model.trim(&disk, 40, 10).await;
        model.check(&disk).await;
        drop(release);
        world.objects.clear_script();
        rest(&disk).await;
        assert!(status(&disk).await.space.copied_bytes > before, "{kind:?}");
        model.check(&disk).await;
        disk.image().checkpoint().await.expect("a checkpoint");
        rest(&disk).await;
        model.check(&disk).await;
        // Also for who opens the image from object storage alone, and after further map
        // compactions.
        disk.image().close().await.expect("it closes");
        let disk = open_eager(&world.machine(2)).await;
        model.check(&disk).await;
        for round in 0..6 {
            model.write(&disk, [100 + round], 4).await;
            disk.image().checkpoint().await.expect("a checkpoint");
        }
        rest(&disk).await;
        model.check(&disk).await;
    }
}

#[tokio::test(start_paused = true)]
async fn trims_outlive_the_segments_that_recorded_them() {
    let world = World::new();
    let machine = world.machine(1);
    let disk = open_eager(&machine).await;
    let mut model = Model::new();
    model.write(&disk, 0..100, 1).await;
    disk.image().checkpoint().await.expect("a checkpoint");
    // Segments with little but holes, which later map compactions drop.
    for first in [0, 20, 40, 60] {
        model.trim(&disk, first, 15).await;
        model.write(&disk, [200 + first], 2).await;
        disk.image().checkpoint().await.expect("a checkpoint");
        rest(&disk).await;
    }
    for round in 3..12 {
        model.write(&disk, (200..280).step_by(20), round).await;
        disk.image().checkpoint().await.expect("a checkpoint");
        rest(&disk).await;
        collect(&world.objects, &newest(&machine).await).await;
        model.check(&disk).await;
    }
    disk.image().close().await.expect("it closes");
    model.check(&open_eager(&world.machine(2)).await).await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_keeps_the_segments_that_it_began_with() {
    let world = World::new();
    let machine = world.machine(1);
    let disk = open_eager(&machine).await;
    let mut model = Model::new();
    model.write(&disk, 0..60, 1).await;
    disk.image().checkpoint().await.expect("a checkpoint");
    rest(&disk).await;
    let old = model.clone();
    let view = disk.image().view();
    for round in 2..12 {
        model.write(&disk, (0..60).step_by(2), round).await;
        disk.image().checkpoint().await.expect("a checkpoint");
        rest(&disk).await;
        collect(&world.objects, &newest(&machine).await).await;
    }
    assert!(!newest(&machine).await.retired.is_empty());
    // Through caches of its own, so that everything comes from the store.
    let cold = crate::engine::View {
        frames: std::sync::Arc::new(crate::engine::publisher::own_reader(
            &machine.host,
            view.page_size,
            std::sync::Arc::default(),
        )),
        ..(*view).clone()
    };
    for number in 0..60 {
        let content = cold.read(number * PAGE as u64, PAGE).await;
        let content = content.expect("it is still there").into_bytes();
        assert_eq!(content[0], old.0[number as usize], "page {number}");
    }
    drop((view, cold));
    model.write(&disk, [0], 99).await;
    disk.image().checkpoint().await.expect("a checkpoint");
    rest(&disk).await;
    assert!(newest(&machine).await.retired.is_empty());
    model.check(&disk).await;
}

#[tokio::test(start_paused = true)]
async fn tiny_segments_are_merged() {
    let world = World::new();
    let machine = world.machine(1);
    let disk = open_eager(&machine).await;
    let mut model = Model::new();
    for number in 0..120 {
        model.write(&disk, [(number * 37) % 120], 1).await;
        disk.image().checkpoint().await.expect("a checkpoint");
        rest(&disk).await;
    }
    let manifest = newest(&machine).await;
    assert!(manifest.segments.len() <= 20, "{}", manifest.segments.len());
    assert!(manifest.tail.len() <= 4);
    model.check(&disk).await;
    // What was written out of order lies in order again: one request reads most of it.
    let cold = open_cold(&world, disk).await;
    let before = world.objects.count(OperationKind::GetRange);
    let content = cold.read(0, 64 * PAGE as u32).await.expect("a read");
    assert_eq!(content.len(), 64 * PAGE);
    let requests = world.objects.count(OperationKind::GetRange) - before;
    assert!(requests <= 12, "{requests} requests");
    assert_eq!(read(&cold, 5).await, 1);
}

async fn open_cold(world: &World, disk: Attachment) -> Attachment {
    disk.image().close().await.expect("it closes");
    open_eager(&world.machine(7)).await
}

#[tokio::test(start_paused = true)]
async fn a_damaged_segment_is_left_alone() {
    let world = World::new();
    let machine = world.machine(1);
    let disk = open_eager(&machine).await;
    let mut model = Model::new();
    model.write(&disk, 0..60, 1).await;
    disk.image().checkpoint().await.expect("a checkpoint");
    rest(&disk).await;
    let victim = newest(&machine).await.segments[0].clone();
    let key = victim.name.key();
    let sound = world.objects.peek(&key).expect("it is there");
    let mut damaged = sound.to_vec();
    // In the last frame, whose pages are still alive.
    let offset = damaged.len() * 9 / 10;
    damaged[offset] ^= 1;
    world
        .objects
        .put(&key, damaged.into())
        .await
        .expect("a put");
    model.write(&disk, 0..40, 2).await;
    disk.image().checkpoint().await.expect("a checkpoint");
    rest(&disk).await;
    assert!(status(&disk).await.failure.is_none());
    let still_there = |manifest: &Manifest| manifest.segments.iter().any(|it| it.id == victim.id);
    assert!(still_there(&newest(&machine).await));
    assert_eq!(read_all(&disk, 0..40).await, [2; 40]);
    // Nothing was lost: once the damage is undone, a server that starts anew cleans it.
    world.objects.put(&key, sound).await.expect("a put");
    model.check(&disk).await;
    disk.image().close().await.expect("it closes");
    let machine = world.machine(3);
    let disk = open_eager(&machine).await;
    for round in 3..8 {
        model.write(&disk, 0..40, round).await;
        disk.image().checkpoint().await.expect("a checkpoint");
        rest(&disk).await;
    }
    assert!(!still_there(&newest(&machine).await));
    model.check(&disk).await;
}
