//! Where there is content and where it changed, beside a model that knows.

use std::collections::BTreeMap;

use super::world::{IMAGE_BYTES, Machine, PAGE, World, read, write};
use crate::engine::{Acknowledge, Attachment, Extent};
use crate::env::memory::Crash;
use crate::ids::Version;
use crate::protocol::Since;

const PAGES: usize = IMAGE_BYTES as usize / PAGE;

/// What is true of each page, asked `step` extents at a time.
async fn by_page(disk: &Attachment, since: Option<&Since>, step: usize) -> Vec<bool> {
    let base = match since {
        None => None,
        Some(since) => {
            let version = disk.find_base(since).await.expect("it is retained");
            Some(disk.base(version).await.expect("it was found"))
        }
    };
    let mut pages = Vec::new();
    let mut offset = 0;
    while offset < IMAGE_BYTES {
        let rest = IMAGE_BYTES - offset;
        let extents = disk.extents(offset, rest, base.as_ref(), step).await;
        let extents = extents.expect("extents");
        assert!(!extents.is_empty() && extents.len() <= step);
        let differ = |pair: &[Extent]| pair[0].is_set != pair[1].is_set;
        assert!(extents.windows(2).all(differ), "{extents:?}");
        for extent in extents {
            offset += extent.length_bytes;
            pages.resize(offset as usize / PAGE, extent.is_set);
        }
    }
    pages
}

/// What each page holds, and when each was last touched.
struct Model {
    content: Vec<u8>,
    touched: Vec<u64>,
    now: u64,
}

impl Model {
    async fn change(&mut self, disk: &Attachment, round: u64) {
        for step in 0..6 {
            self.now += 1;
            let number = ((round * 37 + step * 613) * 7919) % PAGES as u64;
            let pages = (number as usize)..(number as usize + 5).min(PAGES);
            let (offset, length) = (number * PAGE as u64, (pages.len() * PAGE) as u64);
            let byte = match (round + step) % 4 {
                0 => {
                    let trimmed = disk.trim(offset, length, Acknowledge::Buffered).await;
                    trimmed.expect("a trim");
                    0
                }
                1 => {
                    let zeroed = disk
                        .write_zeroes(offset, length, Acknowledge::Buffered)
                        .await;
                    zeroed.expect("zeroes");
                    0
                }
                _ => {
                    let byte = (self.now % 200) as u8 + 1;
                    for page in pages.clone() {
                        write(disk, page as u64, byte).await;
                    }
                    byte
                }
            };
            self.content[pages.clone()].fill(byte);
            self.touched[pages].fill(self.now);
        }
    }
}

async fn reopened(machine: &Machine, disk: Attachment, crash: bool) -> Attachment {
    if crash {
        drop(disk);
        machine.crash(Crash::ProcessKill).await;
    } else {
        disk.image().close().await.expect("it closes");
        drop(disk);
    }
    machine.open().await
}

#[tokio::test(start_paused = true)]
async fn extents_are_what_was_written_page_for_page() {
    let world = World::new();
    let machine = world.machine(1);
    let mut disk = machine.open().await;
    let mut model = Model {
        content: vec![0; PAGES],
        touched: vec![0; PAGES],
        now: 0,
    };
    let mut states: BTreeMap<Version, (Vec<u8>, u64)> = BTreeMap::new();
    for round in 0..40 {
        model.change(&disk, round).await;
        if round % 3 == 1 {
            let version = disk.image().checkpoint().await.expect("a checkpoint");
            states.insert(version, (model.content.clone(), model.now));
        }
        if round % 7 == 6 {
            disk = reopened(&machine, disk, round % 2 == 0).await;
        }
        let step = [1, 3, 1000][round as usize % 3];
        let allocated = by_page(&disk, None, step).await;
        for (page, (allocated, byte)) in allocated.iter().zip(&model.content).enumerate() {
            assert_eq!(*allocated, *byte != 0, "page {page} in round {round}");
        }
        for (version, (before, then)) in &states {
            let changed = by_page(&disk, Some(&Since::Version(*version)), step).await;
            for (page, changed) in changed.iter().enumerate() {
                let differs = before[page] != model.content[page];
                let untouched = model.touched[page] <= *then;
                let empty = before[page] == 0 && model.content[page] == 0;
                assert!(
                    *changed || !differs,
                    "page {page} since {version} is missed"
                );
                assert!(
                    !*changed || !untouched && !empty,
                    "page {page} since {version}"
                );
            }
        }
    }
    assert!(states.len() > 10);
}

#[tokio::test(start_paused = true)]
async fn an_extent_begins_and_ends_where_it_was_asked() {
    let disk = World::new().machine(1).open().await;
    write(&disk, 1, 7).await;
    let page = PAGE as u64;
    let check = async |offset: u64, length: u64, expected: &[(u64, bool)]| {
        let found = disk
            .extents(offset, length, None, 10)
            .await
            .expect("extents");
        let found: Vec<_> = found
            .iter()
            .map(|one| (one.length_bytes, one.is_set))
            .collect();
        assert_eq!(found, expected, "{offset}+{length}");
    };
    check(0, page, &[(page, false)]).await;
    check(1, page, &[(page - 1, false), (1, true)]).await;
    check(page + 5, 10, &[(10, true)]).await;
    check(2 * page - 1, 2, &[(1, true), (1, false)]).await;
    check(IMAGE_BYTES - 1, 1, &[(1, false)]).await;
    assert!(disk.extents(IMAGE_BYTES, 1, None, 1).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_not_there_is_no_base() {
    let disk = World::new().machine(1).open().await;
    let newest = disk.image().checkpoint().await.expect("a checkpoint");
    assert!(disk.find_base(&Since::Version(newest)).await.is_ok());
    for since in [
        Since::Version(Version(newest.0 + 1)),
        Since::Version(Version(u64::MAX)),
        Since::Snapshot("monday".to_owned()),
    ] {
        assert!(disk.find_base(&since).await.is_err(), "{since:?}");
    }
    assert!(disk.base(Version(newest.0 + 1)).await.is_err());
}

/// Each may take megabytes, and every connection may compare with several.
#[tokio::test(start_paused = true)]
async fn states_to_compare_with_are_shared_and_few() {
    let world = World::new();
    let disk = world.machine(1).open().await;
    let other = disk.image().attach();
    let mut versions = Vec::new();
    for number in 0..12 {
        write(&disk, number, 1).await;
        versions.push(disk.image().checkpoint().await.expect("a checkpoint"));
    }
    let requests = || world.objects.operations().len();
    for version in &versions {
        let found = disk.find_base(&Since::Version(*version)).await;
        assert_eq!(found, Ok(*version));
    }
    let before = requests();
    for version in &versions[4..] {
        assert!(other.base(*version).await.is_ok());
    }
    assert_eq!(requests(), before, "the last eight are there");
    assert!(other.base(versions[3]).await.is_ok());
    assert!(requests() > before, "an earlier one is opened again");
    // Whoever keeps them in use makes others wait, and nobody else opens more.
    let mut in_use = Vec::new();
    for version in &versions[4..] {
        in_use.push(disk.base(*version).await.expect("it is retained"));
    }
    let ninth = other.base(versions[11]);
    let waited = tokio::time::timeout(std::time::Duration::from_secs(9), ninth).await;
    assert!(waited.is_err(), "a ninth in use");
    in_use.pop();
    assert!(other.base(versions[11]).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn extents_read_nothing_and_prefetched_content_is_near() {
    let world = World::new();
    let machine = world.machine(1);
    let mut disk = machine.open().await;
    for number in 0..600 {
        write(&disk, number, (number % 250) as u8 + 1).await;
    }
    disk = reopened(&machine, disk, false).await;
    let before = world.objects.operations().len();
    by_page(&disk, None, 1000).await;
    assert_eq!(world.objects.operations().len(), before);
    disk = {
        disk.image().close().await.expect("it closes");
        drop(disk);
        world.machine(2).open().await
    };
    disk.prefetch(0, IMAGE_BYTES).await.expect("a prefetch");
    let before = world.objects.operations().len();
    for number in 0..600 {
        assert_eq!(read(&disk, number).await, (number % 250) as u8 + 1);
    }
    assert_eq!(world.objects.operations().len(), before);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_sees_its_own_extents() {
    let disk = World::new().machine(1).open().await;
    write(&disk, 2, 7).await;
    let transaction = disk.begin().await.expect("it begins");
    let page = PAGE as u64;
    transaction.trim(2 * page, page).await.expect("a trim");
    let data = super::world::page(9);
    transaction.write(5 * page, data).await.expect("a write");
    let found = transaction.extents(0, 8 * page, None, 10).await;
    let found: Vec<_> = found
        .expect("extents")
        .iter()
        .map(|one| (one.length_bytes / page, one.is_set))
        .collect();
    assert_eq!(found, [(5, false), (1, true), (2, false)]);
    // To be told is to read: somebody else's write conflicts.
    write(&disk, 7, 1).await;
    assert!(transaction.commit(Acknowledge::Buffered).await.is_err());
}
