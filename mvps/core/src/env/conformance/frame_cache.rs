//! What every [`FrameCache`] must do on a disk that keeps its word.

use bytes::Bytes;

use crate::env::FrameCache;
use crate::ids::{ObjectSequence, PieceKey};

/// As long as pieces are: a leaf of one extent, frames of one page, and a frame that was not
/// compressed.
const LENGTHS: &[usize] = &[1, 40, 500, 4096, 4133, 65_594];

/// Runs the suite on a cache that is empty and has room for at least `room_bytes`.
///
/// # Panics
/// With a message that names the rule.
pub async fn check_frame_cache(cache: &dyn FrameCache, room_bytes: u64) {
    let suite = Suite(cache);
    suite.round_trips().await;
    suite.names_are_told_apart().await;
    suite.what_is_removed_is_gone().await;
    suite.the_limit_holds(room_bytes).await;
    suite.a_lower_limit_gives_room_back(room_bytes).await;
}

struct Suite<'a>(&'a dyn FrameCache);

fn key(suffix: u64, sequence: u64, offset: u64) -> PieceKey {
    PieceKey {
        suffix,
        sequence: ObjectSequence(sequence),
        offset,
    }
}

/// Content that no other key has.
fn content(key: PieceKey, length: usize) -> Bytes {
    let name = [key.suffix, key.sequence.0, key.offset];
    let name: Vec<u8> = name.iter().flat_map(|it| it.to_le_bytes()).collect();
    (0..length)
        .map(|at| name[at % 24] ^ (at / 24) as u8)
        .collect()
}

impl Suite<'_> {
    /// Puts a piece and waits until it is on the disk.
    async fn put(&self, key: PieceKey, length: usize) {
        self.0.put(key, content(key, length));
        self.0.settled().await;
    }

    async fn round_trips(&self) {
        let before = self.0.usage();
        assert_eq!(self.0.get(key(1, 1, 0)).await, None, "it is empty");
        for (number, length) in (0..).zip(LENGTHS) {
            let key = key(1, number, 64);
            self.put(key, *length).await;
            let got = self.0.get(key).await;
            assert_eq!(got, Some(content(key, *length)), "a piece of {length}");
        }
        let usage = self.0.usage();
        assert_eq!(usage.entries, before.entries + LENGTHS.len() as u64);
        assert_eq!(usage.hits, before.hits + LENGTHS.len() as u64);
        assert_eq!(usage.misses, before.misses + 1);
        assert!(usage.bytes >= LENGTHS.iter().sum::<usize>() as u64);
        assert_eq!((usage.dropped, usage.damaged), (0, 0));
    }

    async fn names_are_told_apart(&self) {
        let keys = [key(7, 7, 7), key(8, 7, 7), key(7, 8, 7), key(7, 7, 8)];
        for (number, one) in keys.iter().enumerate() {
            assert_eq!(self.0.get(*one).await, None, "{one:?} was not put yet");
            self.put(*one, 300).await;
            for there in &keys[..=number] {
                let got = self.0.get(*there).await;
                assert_eq!(got, Some(content(*there, 300)), "{there:?}");
            }
        }
    }

    async fn what_is_removed_is_gone(&self) {
        let one = key(9, 9, 9);
        self.put(one, 300).await;
        let damaged = self.0.usage().damaged;
        self.0.remove(one);
        assert_eq!(self.0.get(one).await, None, "at once");
        self.0.settled().await;
        assert_eq!(self.0.get(one).await, None, "and later");
        assert_eq!(self.0.usage().damaged, damaged + 1);
        self.0.remove(one);
        self.put(one, 200).await;
        let got = self.0.get(one).await;
        assert_eq!(got, Some(content(one, 200)), "it may be put again");
    }

    async fn the_limit_holds(&self, room_bytes: u64) {
        let piece = 4096;
        let pieces = 3 * room_bytes / piece;
        for number in 0..pieces {
            self.put(key(3, number, 0), 4096).await;
            let usage = self.0.usage();
            assert!(usage.bytes <= usage.limit_bytes, "{usage:?}");
        }
        let mut found = 0;
        for number in 0..pieces {
            let key = key(3, number, 0);
            if let Some(got) = self.0.get(key).await {
                assert_eq!(got, content(key, 4096), "{key:?}");
                found += 1;
            }
        }
        assert!(found > 0, "something is kept");
        let last = key(3, pieces - 1, 0);
        assert!(self.0.get(last).await.is_some(), "the last piece is kept");
        let usage = self.0.usage();
        assert!(usage.evicted > 0, "{usage:?}");
    }

    async fn a_lower_limit_gives_room_back(&self, room_bytes: u64) {
        for limit in [room_bytes / 2, 0] {
            self.0.limit_to(limit);
            self.0.settled().await;
            let usage = self.0.usage();
            assert!(usage.bytes <= limit, "{usage:?}");
            assert_eq!(usage.limit_bytes, limit);
        }
        let one = key(5, 5, 5);
        self.put(one, 4096).await;
        assert_eq!(self.0.get(one).await, None, "there is no room");
        assert!(self.0.usage().dropped > 0, "and it was counted");
        self.0.limit_to(room_bytes);
        self.put(one, 4096).await;
        assert!(self.0.get(one).await.is_some(), "there is room again");
    }
}
