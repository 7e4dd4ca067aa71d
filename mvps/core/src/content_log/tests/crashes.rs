//! Processes that end at every single call of the disk, and power that fails then or later.

use super::player::{Player, SCRIPT, Step};
use crate::env::memory::{Crash, MemoryFiles, SeededEntropy};

/// Different outcomes of a power cut at one place.
const CUTS: u64 = 6;

/// Runs the script until the process ends at a call; returns whether it did.
async fn run_to(player: &mut Player, calls: u64) -> bool {
    player.files.stop_after(Some(calls));
    if player.open(false).await.is_err() {
        return true;
    }
    for step in SCRIPT {
        if player.step(*step).await.is_err() {
            return true;
        }
    }
    player.files.stop_after(None);
    false
}

/// Goes on after a crash, and crashes again: nothing that was cut off comes back.
async fn go_on(player: &mut Player, chance: &SeededEntropy, context: &str) {
    for step in [
        Step::Commit(1, 1),
        Step::Commit(2, 2),
        Step::Sync,
        Step::Commit(1, 1),
        Step::Seal,
        Step::Commit(1, 3),
    ] {
        let done = player.step(step).await;
        done.unwrap_or_else(|error| panic!("{context}: {step:?}: {error}"));
    }
    for crash in [Crash::ProcessKill, Crash::PowerCut] {
        player.files.crash(crash, chance);
        let opened = player.open(crash == Crash::PowerCut).await;
        opened.unwrap_or_else(|error| panic!("{context}, and {crash:?}: {error}"));
    }
}

#[tokio::test]
async fn a_process_may_end_at_every_call() {
    let mut calls = 0;
    while stops_at(calls, None).await {
        calls += 1;
    }
    assert!(calls > 60, "{calls} calls");
}

#[tokio::test]
async fn power_may_fail_at_every_call() {
    for cut in 0..CUTS {
        let mut calls = 0;
        while stops_at(calls, Some(cut)).await {
            calls += 1;
        }
    }
}

/// One world; returns whether the process ended at the call.
async fn stops_at(calls: u64, cut: Option<u64>) -> bool {
    let context = format!("call {calls}, cut {cut:?}");
    let mut player = Player::new(MemoryFiles::new(), calls);
    let stopped = run_to(&mut player, calls).await;
    let chance = SeededEntropy::new(calls * CUTS + cut.unwrap_or_default());
    let crash = match cut {
        Some(_) => Crash::PowerCut,
        None => Crash::ProcessKill,
    };
    player.files.crash(crash, &chance);
    let opened = player.open(cut.is_some()).await;
    opened.unwrap_or_else(|error| panic!("{context}: {error}"));
    go_on(&mut player, &chance, &context).await;
    stopped
}

/// What a making left that was interrupted is durable before anything in it is.
#[tokio::test]
async fn a_making_may_end_at_every_call() {
    for calls in 0..12 {
        for cut in 0..CUTS {
            let context = format!("call {calls}, cut {cut}");
            let mut player = Player::new(MemoryFiles::new(), calls);
            player.files.stop_after(Some(calls));
            // It ends in the middle, or not.
            let _ = player.open(false).await;
            player.close();
            let chance = SeededEntropy::new(calls * CUTS + cut);
            player.files.crash(Crash::ProcessKill, &chance);
            for lost_power in [false, true] {
                let opened = player.open(lost_power).await;
                opened.unwrap_or_else(|error| panic!("{context}: {error}"));
                for step in [Step::Commit(1, 1), Step::Sync] {
                    player.step(step).await.expect("a sound disk");
                }
                player.files.crash(Crash::PowerCut, &chance);
            }
        }
    }
}

/// An opening that ends at a call is followed by another, however often.
#[tokio::test]
async fn an_opening_may_end_at_every_call() {
    for at in (5..80).step_by(5) {
        for cut in 0..CUTS {
            for within in 0..12 {
                let context = format!("call {at}, cut {cut}, call {within} of the opening");
                let mut player = Player::new(MemoryFiles::new(), at);
                run_to(&mut player, at).await;
                let chance = SeededEntropy::new(at * CUTS + cut);
                player.files.crash(Crash::PowerCut, &chance);
                player.files.stop_after(Some(within));
                let opened = player.open(true).await;
                let chance = SeededEntropy::new(within);
                let crash = match within % 2 {
                    0 => Crash::PowerCut,
                    _ => Crash::ProcessKill,
                };
                player.files.crash(crash, &chance);
                let again = player.open(opened.is_err()).await;
                again.unwrap_or_else(|error| panic!("{context}: {error}"));
                go_on(&mut player, &chance, &context).await;
            }
        }
    }
}
