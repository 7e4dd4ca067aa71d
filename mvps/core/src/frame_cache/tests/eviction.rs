//! How room is made, and what stays.

use super::player::{LIMIT_BYTES, Player, SLAB_BYTES, key, now, piece};
use crate::env::FrameCache;
use crate::env::memory::DiskFault;

#[test]
fn the_oldest_go_and_the_limit_holds() {
    let player = Player::default();
    for number in 0..1000 {
        player.put(number);
        player.check_room();
    }
    assert_eq!(player.there(0..800), 0);
    assert!(player.there(900..1000) == 100, "the newest are there");
    let usage = player.cache().usage();
    assert_eq!(usage.entries + usage.evicted, 1000, "{usage:?}");
    assert_eq!(usage.entries, player.index.places().len() as u64);
    assert!(usage.bytes > LIMIT_BYTES - 3 * SLAB_BYTES, "it is used");
}

/// What is read again and again stays, whatever passes by.
#[test]
fn a_scan_drives_nothing_out_that_is_in_use() {
    let player = Player::default();
    for number in 0..3000 {
        // One in five, as long as there are any.
        if number < 30 {
            player.put(number);
        }
        player.put_all(1000 + 4 * number..1000 + 4 * (number + 1));
        let hot = 0..(number + 1).min(30);
        assert_eq!(player.there(hot.clone()) as u64, hot.end, "at {number}");
    }
    player.check_room();
}

/// What was read once long ago moves on once.
#[test]
fn a_second_chance_is_one() {
    let player = Player::default();
    player.put_all(0..7);
    assert_eq!(player.there(0..7), 7);
    player.put_all(1000..1160);
    assert_eq!(player.index.get_all(0..7), 7, "they have moved on");
    player.put_all(2000..2400);
    assert_eq!(player.index.get_all(0..7), 0, "nobody asked again");
}

/// If everything is read, half of it goes all the same.
#[test]
fn everything_in_use_is_not_kept_for_ever() {
    let player = Player::default();
    for number in 0..2000 {
        player.put(number);
        player.get(number);
        player.check_room();
    }
    assert!(player.get(1999));
    assert!(player.cache().usage().evicted > 1000);
}

#[test]
fn what_was_removed_gets_no_second_chance() {
    let player = Player::default();
    player.put_all(0..10);
    assert_eq!(player.there(0..10), 10);
    for number in 0..10 {
        player.cache().remove(key(number));
    }
    player.put_all(1000..1200);
    assert_eq!(player.index.get_all(0..10), 0);
    assert_eq!(player.there(0..10), 0);
}

#[test]
fn a_lower_limit_takes_whole_slabs_and_a_higher_one_lets_it_grow() {
    let mut player = Player::default();
    player.put_all(0..500);
    let newest = player.there(0..500);
    player.cache().limit_to(LIMIT_BYTES / 2);
    player.check_room();
    let half = player.there(0..500);
    assert!(0 < half && half < newest, "{half} of {newest}");
    assert!(player.get(499), "the newest stay");
    player.cache().limit_to(0);
    player.check_room();
    assert!(player.files.paths("slabs").is_empty());
    assert_eq!(player.cache().usage().entries, 0);
    player.put(1);
    assert!(!player.get(1));
    player.cache().limit_to(LIMIT_BYTES);
    player.put_all(0..100);
    assert_eq!(player.there(0..100), 100);
    player.reopen();
    assert_eq!(player.there(0..100), 100);
}

#[test]
fn a_piece_that_is_too_long_is_dropped() {
    let player = Player::default();
    player.cache().put(key(1), piece(key(1), 5000));
    player.put(2);
    assert!(!player.get(1) && player.get(2));
    assert_eq!(player.cache().usage().dropped, 1);
}

#[test]
fn a_full_disk_costs_the_oldest_slabs() {
    let mut player = Player::default();
    player.put_all(0..100);
    let before = player.cache().usage();
    player.files.set_capacity(Some(before.bytes + 500));
    player.put_all(100..200);
    let usage = player.cache().usage();
    assert!(usage.dropped > 0, "{usage:?}");
    assert!(usage.dropped < 40, "{usage:?}");
    assert!(player.there(100..200) > 50, "it goes on");
    player.check(0..200);
    player.files.heal();
    player.put_all(200..250);
    assert_eq!(player.there(200..250), 50, "there is room again");
    player.reopen();
    assert_eq!(player.there(200..250), 50);
}

/// A failed call of any kind, at any place, costs pieces and nothing else.
#[test]
fn any_call_may_fail() {
    for fault in [
        DiskFault::DiskFull,
        DiskFault::WriteFails,
        DiskFault::ReadFails,
        DiskFault::OpenFails,
    ] {
        for spared in 0..60 {
            let mut player = Player::default();
            player.files.script_after(spared, fault);
            for number in 0..300 {
                player.put(number);
                player.get(number / 2);
            }
            player.check(0..300);
            assert!(player.get(299), "{fault:?} after {spared}: it goes on");
            player.files.heal();
            player.reopen();
            player.check(0..300);
        }
    }
}

impl crate::frame_cache::MemoryIndex {
    /// How many of these it has.
    fn get_all(&self, numbers: std::ops::Range<u64>) -> usize {
        let places = self.places();
        numbers
            .filter(|number| places.contains_key(&key(*number)))
            .count()
    }
}

/// A put of what is there already, and of something else meanwhile, keeps one of each.
#[test]
fn what_is_put_twice_is_there_once() {
    let player = Player::default();
    for _ in 0..2 {
        player.put_all(0..20);
        assert_eq!(player.cache().usage().entries, 20);
        assert_eq!(player.there(0..20), 20);
    }
    assert!(now(player.cache().get(key(77))).is_none());
}
