//! [`judge`] as a table.

use super::world::World;
use crate::format::manifest::{ImageState, Manifest};
use crate::ids::{EpochNumber, PublicationCounter, PublicationId, Tenure, TenureId, Version};
use crate::protocol::{PublishedBy, Verdict, judge};

const MINE: PublicationId = PublicationId(0x1111);

fn tenure(epoch: u64, id: u128) -> Tenure {
    Tenure {
        epoch: EpochNumber(epoch),
        id: TenureId(id),
    }
}

/// `base` as version, tenure and counter.
fn stamped(base: &Manifest, version: u64, tenure: Tenure, counter: u64) -> Manifest {
    Manifest {
        version: Version(version),
        tenure,
        publication: PublicationCounter(counter),
        ..base.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_is_judged_by_tenure_and_counter() {
    let base = World::new().first_server().await.base;
    let mine = tenure(3, 0xa);
    let body = stamped(&base, 10, mine, 7);
    for (name, version, theirs, counter, expected) in [
        ("it is the newest", 10, mine, 7, Verdict::Counted),
        ("others built on it", 12, mine, 7, Verdict::Counted),
        ("I built on it since", 12, mine, 8, Verdict::Counted),
        ("others had the name", 10, mine, 6, Verdict::Merge),
        ("its name was freed", 12, mine, 6, Verdict::Merge),
        ("taken over", 11, tenure(4, 0xb), 1, Verdict::Fenced),
        (
            "same number, other tenure",
            12,
            tenure(3, 0xb),
            9,
            Verdict::Fenced,
        ),
        (
            "lower number, other tenure",
            12,
            tenure(2, 0xb),
            9,
            Verdict::Fenced,
        ),
        ("it may still land", 9, mine, 6, Verdict::Unresolved),
        (
            "it may still land, to no end",
            9,
            tenure(4, 0xb),
            1,
            Verdict::Unresolved,
        ),
    ] {
        let newest = stamped(&base, version, theirs, counter);
        assert_eq!(
            judge(&newest, &body, PublishedBy::Server),
            expected,
            "{name}"
        );
    }
    let mut tombstone = stamped(&base, 11, tenure(4, 0xc), 1);
    tombstone.state = ImageState::Tombstone;
    assert_eq!(
        judge(&tombstone, &body, PublishedBy::Server),
        Verdict::Fenced
    );
}

#[tokio::test(start_paused = true)]
async fn others_are_judged_by_their_mark() {
    let base = World::new().first_server().await.base;
    let writer = tenure(3, 0xa);
    let mut body = stamped(&base, 10, writer, 7);
    body.others.push(MINE);
    let marked = [PublicationId(1), MINE, PublicationId(2)];
    let unmarked = [PublicationId(1), PublicationId(2)];
    for (name, version, theirs, others, expected) in [
        (
            "it is the newest",
            10,
            writer,
            &marked[..2],
            Verdict::Counted,
        ),
        (
            "others built on it",
            12,
            writer,
            &marked[..],
            Verdict::Counted,
        ),
        (
            "a new tenure built on it",
            12,
            tenure(4, 0xb),
            &marked[..],
            Verdict::Counted,
        ),
        (
            "somebody had the name",
            10,
            writer,
            &unmarked[..],
            Verdict::Merge,
        ),
        (
            "its name was freed",
            12,
            writer,
            &unmarked[..],
            Verdict::Merge,
        ),
        (
            "a new tenure came",
            11,
            tenure(4, 0xb),
            &unmarked[..],
            Verdict::Fenced,
        ),
        (
            "it may still land",
            9,
            writer,
            &unmarked[..],
            Verdict::Unresolved,
        ),
    ] {
        // The counter tells nothing: the tenure's server advances it for its own reasons.
        for counter in [6, 7, 8] {
            let mut newest = stamped(&base, version, theirs, counter);
            newest.others = others.to_vec();
            let verdict = judge(&newest, &body, PublishedBy::Other(MINE));
            assert_eq!(verdict, expected, "{name}");
        }
    }
}
