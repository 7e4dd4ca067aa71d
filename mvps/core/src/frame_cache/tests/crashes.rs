//! Processes that end at every single call of the disk, and power that fails then.

use super::player::{LIMIT_BYTES, Player, key, now, open_on, verifies};
use crate::env::FrameCache;
use crate::env::memory::{Crash, SeededEntropy};
use std::sync::Arc;

/// Puts, reads, removes and makes room; returns whether the process ended meanwhile.
fn play(player: &Player, base: u64) -> bool {
    for number in base..base + 200 {
        player.put(number);
        player.get(base + (number - base) / 2);
        if number % 11 == 4 {
            player.cache().remove(key(number - 3));
        }
    }
    player.files.has_stopped()
}

/// After a kill everything that is found is right; after a power cut what is wrong is told by its
/// own checksum, and is not found again.
fn ends_at(calls: u64, cut: Option<u64>) -> bool {
    let context = format!("call {calls}, cut {cut:?}");
    let mut player = Player::default();
    player.files.stop_after(Some(calls));
    let stopped = play(&player, 0);
    player.files.stop_after(None);
    for round in 1..3_u64 {
        let crash = match cut {
            Some(_) => Crash::PowerCut,
            None => Crash::ProcessKill,
        };
        let chance = SeededEntropy::new(calls * 100 + round * 10 + cut.unwrap_or_default());
        player.cache = None;
        player.files.crash(crash, &chance);
        player.reopen();
        for number in 0..1000 * round {
            let found = now(player.cache().get(key(number)));
            let right = found.is_none_or(|it| verifies(key(number), &it));
            assert!(right || cut.is_some(), "{context}: {number}");
            player.get(number);
        }
        player.check_room();
        play(&player, 1000 * round);
        assert!(player.get(1000 * round + 199), "{context}: it goes on");
        player.check(0..1000 * round + 200);
    }
    stopped
}

#[test]
fn a_process_may_end_at_every_call() {
    let mut calls = 0;
    while ends_at(calls, None) {
        calls += 1;
    }
    assert!(calls > 100, "{calls} calls");
}

#[test]
fn power_may_fail_at_every_call() {
    for cut in 0..2 {
        let mut calls = 0;
        while ends_at(calls, Some(cut)) {
            calls += 3;
        }
    }
}

#[test]
fn an_opening_may_end_at_every_call() {
    for calls in 0..8 {
        let mut player = Player::default();
        player.put_all(0..100);
        player.cache = None;
        player.files.stop_after(Some(calls));
        // It ends in the middle, or not.
        drop(open_on(
            Arc::new(player.files.clone()),
            &player.index,
            LIMIT_BYTES / 4,
        ));
        player
            .files
            .crash(Crash::ProcessKill, &SeededEntropy::new(calls));
        player.reopen();
        player.check(0..100);
        player.put(500);
        assert!(player.get(500));
    }
}
