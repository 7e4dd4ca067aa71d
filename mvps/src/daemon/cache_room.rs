//! The disk cache gives its room to the buffers: near the space that must stay free it shrinks first,
//! before writes slow down.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mvps_core::env::{BufferStores, Clock, FrameCache};

/// How often the disk is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Writes slow down from one and a half times the floor on: the cache is gone by then.
const FREE_OF_FLOOR: u64 = 2;

/// Whether both folders are on one disk; so, if the system does not say.
#[must_use]
pub fn share_a_disk(one: &Path, other: &Path) -> bool {
    let device = |path: &Path| {
        let there = path.ancestors().find(|path| path.is_dir());
        let there = there.unwrap_or(Path::new("."));
        std::fs::metadata(there).ok().map(|found| found.dev())
    };
    device(one) == device(other)
}

/// Lets the cache take `limit_bytes` as long as there is room, for ever.
pub async fn make_room(
    cache: Arc<dyn FrameCache>,
    buffers: Arc<dyn BufferStores>,
    clock: Arc<dyn Clock>,
    floor_bytes: u64,
) {
    let limit_bytes = cache.usage().limit_bytes;
    let mut allowed = limit_bytes;
    loop {
        clock.sleep(LOOK_EVERY).await;
        // Some file systems have no size.
        let Some(space) = buffers.space().filter(|space| space.total_bytes > 0) else {
            continue;
        };
        let used = cache.usage().bytes;
        let next = allowed_bytes(used, space.free_bytes, floor_bytes, limit_bytes);
        if next != allowed {
            allowed = next;
            cache.limit_to(allowed);
        }
    }
}

/// What a cache of `used` bytes may take where so many are free.
fn allowed_bytes(used: u64, free: u64, floor: u64, limit: u64) -> u64 {
    let wanted = floor.saturating_mul(FREE_OF_FLOOR);
    let allowed = (used.saturating_add(free)).saturating_sub(wanted);
    allowed.min(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_shrinks_before_writes_slow_down() {
        let check = |used, free, expected| {
            assert_eq!(
                allowed_bytes(used, free, 10, 100),
                expected,
                "{used}, {free}"
            );
        };
        check(0, 1000, 100);
        check(100, 20, 100);
        check(100, 15, 95);
        check(100, 0, 80);
        check(10, 0, 0);
        check(0, 0, 0);
        check(50, 40, 70);
    }
}
