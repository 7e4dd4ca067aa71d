//! Disks and indexes that say something else than what was written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::player::{LIMIT_BYTES, PIECE_BYTES, Player, key, now, open_on, piece, verifies};
use crate::env::FrameCache;
use crate::env::memory::SeededEntropy;
use crate::frame_cache::{CacheIndex, MemoryIndex, Place, SlabCache, SlabCacheSettings};

const HEADER_BYTES: u64 = 40;

/// A flipped byte anywhere costs the pieces in whose way it is.
#[test]
fn damage_is_a_miss_and_the_entry_goes() {
    let entry = HEADER_BYTES + PIECE_BYTES as u64;
    for at in (0..entry).step_by(13) {
        let player = Player::default();
        player.put_all(0..10);
        let path = player.files.paths("slabs").remove(0);
        let at = HEADER_BYTES + 3 * entry + at;
        let there = player.files.contents(&path).expect("a slab")[at as usize];
        player.files.overwrite(&path, at, &[there ^ 0x41]);
        assert_eq!(player.there(0..10), 9, "a byte at {at}");
        let usage = player.cache().usage();
        assert_eq!((usage.damaged, usage.entries), (1, 9), "at {at}");
        assert!(!player.index.places().contains_key(&key(3)), "at {at}");
        player.put(3);
        assert_eq!(player.there(0..10), 10);
    }
}

#[test]
fn a_slab_may_be_cut_anywhere() {
    let mut player = Player::default();
    player.put_all(0..40);
    for path in player.files.paths("slabs") {
        let length = player.files.contents(&path).expect("a slab").len() as u64;
        for cut in (0..length).rev().step_by(700) {
            player.files.truncate(&path, cut);
            player.reopen();
            player.there(0..40);
            player.check(0..40);
        }
    }
    assert_eq!(player.there(0..40), 0);
    player.put_all(0..40);
    assert_eq!(player.there(0..40), 40);
}

#[test]
fn a_slab_that_is_gone_or_another_takes_its_name() {
    let mut player = Player::default();
    player.put_all(0..40);
    let paths = player.files.paths("slabs");
    let first = player.files.contents(&paths[0]).expect("a slab");
    player.files.delete(&paths[1]);
    player.reopen();
    assert!(player.there(0..40) < 40);
    player.put_all(0..40);
    // The bytes of one slab under another's name.
    let paths = player.files.paths("slabs");
    player.files.overwrite(&paths[1], 0, &first);
    player.check_all_verified(0..40);
    player.reopen();
    player.check_all_verified(0..40);
}

/// An index that points to another piece's entry, to the middle of one, beyond the end, and to
/// slabs that are none.
#[test]
fn a_place_is_believed_only_if_its_header_agrees() {
    let player = Player::default();
    player.put_all(0..10);
    let good = player.index.places();
    // The eighth begins where the first does, in another object.
    let (right, other) = (good[&key(1)], good[&key(8)]);
    assert_eq!(key(1).offset, key(8).offset);
    let lies = [
        other,
        Place {
            offset: right.offset + 8,
            ..right
        },
        Place { offset: 0, ..right },
        Place {
            offset: u32::MAX,
            ..right
        },
        Place {
            bytes: right.bytes - 1,
            ..right
        },
        Place {
            bytes: u32::MAX,
            ..right
        },
        Place { bytes: 0, ..right },
        Place { slab: 99, ..right },
    ];
    for lie in lies {
        let mut places = good.clone();
        places.insert(key(1), lie);
        player.index.restore(places);
        assert_eq!(now(player.cache().get(key(1))), None, "{lie:?}");
        assert!(!player.index.places().contains_key(&key(1)), "{lie:?}");
        assert!(player.get(2), "{lie:?}");
    }
    let usage = player.cache().usage();
    assert_eq!((usage.damaged, usage.dropped), (7, 0), "{usage:?}");
}

/// An index of yesterday: its places are of slabs that were given up since, or are still right.
#[test]
fn a_stale_index_is_no_harm() {
    let mut player = Player::default();
    player.put_all(0..100);
    let old = player.index.places();
    player.put_all(100..200);
    player.index.restore(old);
    player.reopen();
    player.check_all_verified(0..200);
    player.put_all(300..600);
    player.check_all_verified(0..600);
    assert!(player.get(599));
}

#[test]
fn a_disk_that_cannot_be_read_is_a_cache_without_hits() {
    use crate::env::memory::DiskFault;
    let player = Player::default();
    player.put_all(0..3);
    for _ in 0..3 {
        player.files.script(DiskFault::ReadFails);
    }
    assert_eq!(player.there(0..3), 0);
    let usage = player.cache().usage();
    assert_eq!((usage.damaged, usage.entries), (3, 0));
    player.put_all(0..3);
    assert_eq!(player.there(0..3), 3);
}

impl Player {
    /// Nothing is wrong that the cache itself can tell: only what was put under a name is returned
    /// under it, and never something else's piece.
    #[track_caller]
    fn check_all_verified(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let found = now(self.cache().get(key(number)));
            let right = found.is_none_or(|it| verifies(key(number), &it));
            assert!(right, "{number}");
        }
    }
}

/// Whenever the index fails, the cache ends: it returns nothing, takes no room, keeps nobody waiting,
/// and begins anew at the next opening.
#[test]
fn an_index_that_fails_ends_the_cache() {
    for changes in 0..30 {
        let mut player = Player::default();
        player.index.fail_after(changes);
        let cache = player.cache.take().expect("it is open");
        for number in 0..400 {
            cache.put(key(number), piece(key(number), PIECE_BYTES));
            let found = now(cache.get(key(number / 2)));
            let is_right = |it: &bytes::Bytes| verifies(key(number / 2), it);
            assert!(found.as_ref().is_none_or(is_right), "{changes}");
        }
        now(cache.settled());
        assert_eq!(cache.usage().bytes, 0, "{changes}: its room is given back");
        assert_eq!(now(cache.get(key(399))), None);
        drop(cache);
        let cache = open_on(Arc::new(player.files.clone()), &player.index, LIMIT_BYTES);
        let cache = cache.expect("a new index");
        cache.put(key(1), piece(key(1), PIECE_BYTES));
        now(cache.settled());
        assert!(now(cache.get(key(1))).is_some(), "{changes}");
    }
}

/// Slabs that no index describes take no room, whether another one can be made or not.
#[test]
fn slabs_of_an_index_that_cannot_be_opened_go() {
    for failures in [1, 2] {
        let mut player = Player::default();
        let cache = player.cache.take().expect("it is open");
        for number in 0..50 {
            cache.put(key(number), piece(key(number), PIECE_BYTES));
        }
        now(cache.settled());
        drop(cache);
        assert!(player.files.paths("slabs").len() > 2);
        let left = AtomicU64::new(failures);
        let opened = now(SlabCache::open(
            Arc::new(player.files.clone()),
            Arc::new(SeededEntropy::new(1)),
            SlabCacheSettings::new(LIMIT_BYTES),
            move || match left.fetch_sub(1, Ordering::Relaxed) {
                0 => Ok(Arc::new(MemoryIndex::new(9)) as Arc<dyn CacheIndex>),
                _ => Err(std::io::Error::other("no room")),
            },
        ));
        assert_eq!(opened.is_ok(), failures == 1);
        let paths = player.files.paths("slabs");
        let slabs = paths.iter().filter(|path| path.contains("slab-"));
        assert_eq!(slabs.count(), 0, "{paths:?}");
    }
}
