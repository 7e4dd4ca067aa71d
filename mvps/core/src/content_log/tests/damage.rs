//! Bytes that are not what was written.

use super::player::{Player, Step, stores};
use crate::content_log::superblock::MARK_OFFSET;
use crate::env::memory::{Crash, MemoryFiles, SeededEntropy};
use crate::env::{BufferError, BufferStores};
use crate::ids::ImageId;

const SECTOR: u64 = 512;

const LOG: &str = "disk0/00000000000000000001.log";

/// A store with four synced batches and two that are not, and where the last two begin.
async fn written(seed: u64) -> (Player, u64, u64) {
    let mut player = Player::new(MemoryFiles::new(), seed);
    player.open(false).await.expect("an empty disk");
    let length = |player: &Player| {
        let log = player.files.contents(LOG);
        log.expect("the active generation").len() as u64
    };
    for step in [
        Step::Metadata(2),
        Step::Commit(2, 1),
        Step::Commit(1, 2),
        Step::Sync,
        Step::Commit(1, 1),
        Step::Sync,
    ] {
        player.step(step).await.expect("a sound disk");
    }
    let synced = length(&player);
    for step in [Step::Commit(2, 1), Step::Commit(1, 1)] {
        player.step(step).await.expect("a sound disk");
    }
    let end = length(&player);
    player
        .files
        .crash(Crash::ProcessKill, &SeededEntropy::new(0));
    // As after a power cut: only blocks and the superblock tell what was synced.
    player
        .files
        .overwrite("disk0/superblock", MARK_OFFSET, &[0; 16]);
    (player, synced, end)
}

/// Every sector of what was not synced may be missing, alone or with others.
#[tokio::test]
async fn a_hole_anywhere_in_the_tail_ends_the_log() {
    for seed in 0..10 {
        let (_, synced, end) = written(seed).await;
        for hole in (synced / SECTOR * SECTOR..end).step_by(512) {
            let (mut player, _, _) = written(seed).await;
            let begin = hole.max(synced);
            let zeroes = vec![0; usize::try_from((hole + SECTOR).min(end) - begin).expect("few")];
            player.files.overwrite(LOG, begin, &zeroes);
            let opened = player.open(true).await;
            opened.unwrap_or_else(|error| panic!("{seed}, a hole at {begin}: {error}"));
        }
    }
}

/// A synced block is never cut off: it is refused, or what is read of it is refused.
#[tokio::test]
async fn damage_of_what_was_synced_is_never_accepted() {
    for seed in 0..10 {
        let (_, synced, _) = written(seed).await;
        for at in (0..synced).step_by(40) {
            let (mut player, _, _) = written(seed).await;
            let log = player.files.contents(LOG).expect("the log");
            let byte = log[usize::try_from(at).expect("a short log")];
            player.files.overwrite(LOG, at, &[byte ^ 0x55]);
            let outcome = player.open_damaged().await;
            assert!(
                !matches!(outcome, Err(BufferError::Io { .. })),
                "{seed}, at {at}: {outcome:?}"
            );
        }
    }
}

/// The last synced block is no torn tail, though no block tells of its sync.
#[tokio::test]
async fn damage_of_the_last_synced_block_is_refused_after_a_kill() {
    let mut player = Player::new(MemoryFiles::new(), 5);
    player.open(false).await.expect("an empty disk");
    for step in [Step::Commit(1, 1), Step::Sync] {
        player.step(step).await.expect("a sound disk");
    }
    player
        .files
        .crash(Crash::ProcessKill, &SeededEntropy::new(0));
    player.files.overwrite(LOG, 64 + 20, &[0x55]);
    let opened = player.open(false).await;
    assert!(matches!(opened, Err(BufferError::Corrupt { .. })));
}

/// A damaged slot is noticed, or holds what the other one held before.
#[tokio::test]
async fn a_damaged_superblock_hides_nothing_that_data_tells_of() {
    let path = "disk0/superblock";
    let (player, _, _) = written(1).await;
    let bytes = player.files.contents(path).expect("a superblock");
    for at in (0..bytes.len()).filter(|at| bytes[*at] != 0) {
        let (mut player, _, _) = written(1).await;
        player.files.overwrite(path, at as u64, &[bytes[at] ^ 0x55]);
        // Every block of the log was written after the newest slot was synced.
        if let Ok(metadata) = player.open_damaged().await {
            assert_eq!(metadata.map(|it| it.len()), Some(200), "at {at}");
        }
    }
}

#[tokio::test]
async fn a_file_that_is_gone_is_missed() {
    for (path, expected) in [(LOG, "missing"), ("disk0/superblock", "superblock")] {
        let (mut player, _, _) = written(3).await;
        player.files.delete(path);
        let Err(BufferError::Corrupt { reason }) = player.open(false).await else {
            panic!("{path} is missing, and the store opens");
        };
        assert!(reason.contains(expected), "{reason}");
    }
}

#[tokio::test]
async fn another_images_store_is_refused() {
    let (player, _, _) = written(4).await;
    player.files.swap_folders("disk0", "disk1");
    let other = ImageId::parse("disk1").expect("a valid name");
    let opened = stores(&player.files, 9).open(&other).await;
    assert!(matches!(opened, Err(BufferError::Corrupt { .. })));
}
