//! Calls of the disk that fail.

use super::player::{Player, SCRIPT};
use crate::env::BufferError;
use crate::env::memory::{Crash, DiskFault, MemoryFiles, SeededEntropy};

/// Lets the `number`th call that `fault` applies to fail, in a store that is open already. Whatever
/// was acknowledged is found after the next opening, also by who loses power then.
async fn fails_at(fault: DiskFault, number: usize) -> bool {
    let context = format!("{fault:?} number {number}");
    let mut player = Player::new(MemoryFiles::new(), 7);
    player.open(false).await.expect("an empty disk");
    player.files.script_after(number, fault);
    let mut failed = false;
    for step in SCRIPT {
        if let Err(error) = player.step(*step).await {
            let is_full = matches!(error, BufferError::Full { .. });
            assert_eq!(is_full, fault == DiskFault::DiskFull, "{context}: {error}");
            failed = true;
            break;
        }
    }
    player.close();
    player.files.heal();
    let chance = SeededEntropy::new(number as u64);
    for crash in [Crash::ProcessKill, Crash::PowerCut] {
        player.files.crash(crash, &chance);
        // Nothing that the first opening acknowledges by being there is lost afterwards.
        let opened = player.open(false).await;
        opened.unwrap_or_else(|error| panic!("{context}, {crash:?}: {error}"));
    }
    failed
}

/// Lets the `number`th call that needs room find none, and goes on with the same store. Returns
/// whether one did.
async fn is_full_at(number: usize) -> bool {
    let mut player = Player::new(MemoryFiles::new(), 7);
    player.open(false).await.expect("an empty disk");
    player.files.script_after(number, DiskFault::DiskFull);
    let mut was_full = false;
    for step in SCRIPT {
        while let Err(error) = player.step(*step).await {
            let is_full = matches!(error, BufferError::Full { .. });
            assert!(is_full && !was_full, "{number}, {step:?}: {error}");
            was_full = true;
        }
    }
    player.files.heal();
    let chance = SeededEntropy::new(number as u64);
    for crash in [Crash::ProcessKill, Crash::PowerCut] {
        player.close();
        player.files.crash(crash, &chance);
        let opened = player.open(crash == Crash::PowerCut).await;
        opened.unwrap_or_else(|error| panic!("{number}, {crash:?}: {error}"));
    }
    was_full
}

#[tokio::test]
async fn a_full_disk_is_waited_out() {
    let mut met = 0;
    for number in 0..60 {
        met += u32::from(is_full_at(number).await);
    }
    assert!(met > 20, "{met} calls met it");
}

#[tokio::test]
async fn every_failing_call_is_survived() {
    for fault in [
        DiskFault::SyncFails,
        DiskFault::SyncFolderFails,
        DiskFault::WriteFails,
        DiskFault::DiskFull,
    ] {
        let mut met = 0;
        for number in 0..40 {
            met += u32::from(fails_at(fault, number).await);
        }
        assert!(met > 0, "{fault:?} was never met");
    }
}
