//! The suite of all caches, and what a restart leaves.

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};

use super::player::{LIMIT_BYTES, PIECE_BYTES, Player, key, now, open_on, piece};
use crate::env::conformance::check_frame_cache;
use crate::env::memory::{Crash, MemoryFiles, SeededEntropy};
use crate::env::{DiskSpace, File, Files, FolderLock, FrameCache, OpenMode};
use crate::frame_cache::{CacheIndex, CacheOpenError, MemoryIndex, SlabCache, SlabCacheSettings};

#[tokio::test]
async fn it_is_a_frame_cache() {
    let room_bytes = 4 << 20;
    let settings = SlabCacheSettings {
        slab_bytes: 512 << 10,
        ..SlabCacheSettings::new(room_bytes)
    };
    let (files, entropy) = (MemoryFiles::new(), SeededEntropy::new(1));
    let open_index = || -> io::Result<Arc<dyn CacheIndex>> { Ok(Arc::new(MemoryIndex::new(1))) };
    let cache = SlabCache::open(Arc::new(files), Arc::new(entropy), settings, open_index).await;
    check_frame_cache(&cache.expect("an empty disk"), room_bytes).await;
}

#[test]
fn a_restart_finds_everything() {
    let mut player = Player::default();
    player.put_all(0..40);
    let before = player.cache().usage();
    for _ in 0..3 {
        player.reopen();
        assert_eq!(player.there(0..40), 40);
    }
    let after = player.cache().usage();
    assert_eq!((after.entries, after.bytes), (before.entries, before.bytes));
    player.put_all(40..50);
    player
        .files
        .crash(Crash::ProcessKill, &SeededEntropy::new(1));
    player.reopen();
    assert_eq!(player.there(0..50), 50);
}

#[test]
fn one_process_has_it() {
    let mut player = Player::default();
    let again = open_on(Arc::new(player.files.clone()), &player.index, LIMIT_BYTES);
    assert!(matches!(again, Err(CacheOpenError::InUse { .. })));
    player.reopen();
}

#[test]
fn slabs_of_another_index_go_and_other_files_stay() {
    let mut player = Player::default();
    player.put_all(0..40);
    let theirs = player.files.open("slabs/notes.txt", OpenMode::New);
    let theirs = theirs.expect("a file of somebody else");
    theirs.write_at(0, &[IoSlice::new(b"x")]).expect("written");
    let junk = player.files.open("slabs/slab-junk", OpenMode::New);
    drop(junk.expect("no slab"));
    player.index = MemoryIndex::new(8);
    player.reopen();
    assert_eq!(player.files.paths("slabs"), ["slabs/notes.txt"]);
    let usage = player.cache().usage();
    assert_eq!((usage.entries, usage.bytes), (0, 0));
    player.put_all(0..10);
    assert_eq!(player.there(0..40), 10);
}

type Jobs = Arc<Mutex<Vec<Box<dyn FnOnce() + Send>>>>;

/// A disk whose jobs wait until they are told to run.
#[derive(Clone, Default)]
struct LateFiles(MemoryFiles, Jobs);

impl LateFiles {
    fn run(&self) {
        loop {
            let jobs = std::mem::take(&mut *self.1.lock().expect("jobs do not panic"));
            if jobs.is_empty() {
                return;
            }
            jobs.into_iter().for_each(|job| job());
        }
    }
}

impl Files for LateFiles {
    fn make_folder(&self, folder: &str) -> io::Result<()> {
        self.0.make_folder(folder)
    }
    fn names(&self, folder: &str) -> io::Result<Vec<String>> {
        self.0.names(folder)
    }
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.0.open(path, mode)
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        self.0.remove(path)
    }
    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.0.sync_folder(folder)
    }
    fn lock(&self, folder: &str) -> io::Result<Option<Box<dyn FolderLock>>> {
        self.0.lock(folder)
    }
    fn space(&self) -> io::Result<DiskSpace> {
        self.0.space()
    }
    fn location(&self, folder: &str) -> String {
        self.0.location(folder)
    }
    fn aside(&self, job: Box<dyn FnOnce() + Send>) {
        self.1.lock().expect("jobs do not panic").push(job);
    }
}

async fn late() -> (LateFiles, SlabCache) {
    let files = LateFiles::default();
    let opening = SlabCache::open(
        Arc::new(files.clone()),
        Arc::new(SeededEntropy::new(1)),
        SlabCacheSettings::new(1 << 30),
        || -> io::Result<Arc<dyn CacheIndex>> { Ok(Arc::new(MemoryIndex::new(1))) },
    );
    let run = async { files.run() };
    let (cache, ()) = tokio::join!(biased; opening, run);
    files.run();
    (files, cache.expect("an empty disk"))
}

#[tokio::test]
async fn what_the_disk_is_too_slow_for_is_dropped() {
    let (files, cache) = late().await;
    let large = 64 << 10;
    for number in 0..1000 {
        cache.put(key(number), piece(key(number), large));
    }
    let dropped = cache.usage().dropped;
    assert!((400..600).contains(&dropped), "{dropped} of 1000");
    // What waits is found, and what was removed meanwhile is not.
    assert!(now(cache.get(key(0))).is_some());
    cache.remove(key(1));
    assert!(now(cache.get(key(1))).is_none());
    cache.put(key(1), piece(key(1), large));
    files.run();
    now(cache.settled());
    assert_eq!(cache.usage().entries, 1000 - dropped);
    assert_eq!(cache.usage().dropped, dropped);
}

#[tokio::test]
async fn readers_and_writers_do_not_disturb_each_other() {
    let (files, cache) = late().await;
    for round in 0..50_u64 {
        for number in 0..20 {
            cache.put(key(number + round), piece(key(number + round), PIECE_BYTES));
        }
        let gets: Vec<_> = (0..70).map(|number| cache.get(key(number))).collect();
        if round % 3 == 0 {
            cache.remove(key(round));
        }
        let run = async { files.run() };
        let gets = futures_util::future::join_all(gets);
        let (found, ()) = tokio::join!(biased; gets, run);
        for (number, found) in (0..).zip(found) {
            let expected = piece(key(number), PIECE_BYTES);
            assert!(found.is_none_or(|it| it == expected), "{number}");
        }
    }
    files.run();
}
