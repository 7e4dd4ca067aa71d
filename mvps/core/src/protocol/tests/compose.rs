//! Composition: who changes what, and what is refused.

use std::collections::BTreeSet;

use super::world::{GIB, Server, World, append_segment, image, page_size, segment};
use crate::env::{Clock, WallTime};
use crate::format::manifest::{
    ImageState, Manifest, OTHERS_MAX, OWNER_MAX_BYTES, Pin, PinHolder, Pinned, RetiredObject,
    TAKEOVERS_MAX,
};
use crate::format::object_name::ObjectName;
use crate::ids::{
    Incarnation, Lsn, ObjectSequence, PublicationCounter, PublicationId, Tenure, TenureId, Version,
};
use crate::protocol::{
    FIRST_PUBLICATION, NewImage, OthersPart, Released, RuleBroken, WriterPart, compose_by_other,
    compose_create, compose_open, compose_publication, compose_takeover, next_tenure,
};

const AT: WallTime = WallTime { unix_ms: 77 };

/// The manifest of an active image with two segments, one retired object, a snapshot and a pin.
async fn example() -> Manifest {
    let world = World::new();
    let mut server = world.first_server().await;
    server.checkpoint(&world).await;
    server.checkpoint(&world).await;
    world.snapshot("monday").await;
    let mut base = world.newest().await;
    base.retired = vec![RetiredObject {
        name: segment(&base, 0, 90).name,
    }];
    base.pins = vec![Pin {
        holder: PinHolder::Reader("r".to_owned()),
        pinned: Pinned::Version(Version(2)),
    }];
    base.watermark = ObjectSequence(91);
    base.validate().unwrap();
    base
}

fn retired(manifest: &Manifest) -> BTreeSet<ObjectName> {
    let names = manifest.retired.iter().map(|retired| retired.name.clone());
    names.collect()
}

fn compose(base: &Manifest, own: WriterPart, released: &Released) -> Result<Manifest, RuleBroken> {
    compose_publication(base, base.tenure, own, released, AT)
}

#[tokio::test(start_paused = true)]
async fn a_writer_changes_its_own_part_only() {
    let base = example().await;
    let mut own = WriterPart::unchanged(&base);
    append_segment(&mut own, &base, 91);
    own.size_bytes = 2 * GIB;
    let next = compose(&base, own.clone(), &Released::Nothing).unwrap();
    assert_eq!(next.version, base.version.next());
    assert_eq!((next.published_at, next.lsn), (AT, own.lsn));
    assert_eq!((next.size_bytes, next.segments.len()), (2 * GIB, 3));
    assert_eq!(OthersPart::of(&next), OthersPart::of(&base));
    assert_eq!(
        (next.others, next.tenure, next.owner, next.takeovers),
        (base.others, base.tenure, base.owner, base.takeovers)
    );
    assert_eq!(next.retired, base.retired);
}

#[tokio::test(start_paused = true)]
async fn what_is_replaced_is_retired() {
    let base = example().await;
    let earlier = base.retired[0].name.clone();
    let replaced = base.segments[0].name.clone();
    for (name, released, expected) in [
        ("nothing", Released::Nothing, vec![&replaced, &earlier]),
        ("everything", Released::Everything, vec![&replaced]),
        (
            "that one",
            Released::Objects(BTreeSet::from([earlier.clone()])),
            vec![&replaced],
        ),
        (
            "the replaced, too early",
            Released::Objects(BTreeSet::from([replaced.clone()])),
            vec![&replaced, &earlier],
        ),
    ] {
        let mut own = WriterPart::unchanged(&base);
        own.tail.remove(0);
        own.segments.remove(0);
        let next = compose(&base, own, &released).unwrap();
        let expected: BTreeSet<ObjectName> = expected.into_iter().cloned().collect();
        assert_eq!(retired(&next), expected, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_in_use_again_is_not_retired() {
    let mut base = example().await;
    let mut own = WriterPart::unchanged(&base);
    base.retired = vec![RetiredObject {
        name: base.segments.pop().unwrap().name,
    }];
    base.tail.pop();
    own.publication = base.publication.next();
    let next = compose(&base, own, &Released::Nothing).unwrap();
    assert_eq!(next.retired, []);
}

#[tokio::test(start_paused = true)]
async fn a_publication_onto_a_clean_manifest_forgets_the_retired() {
    let mut base = example().await;
    base.state = ImageState::Clean;
    let others = OthersPart::of(&base);
    let mut own = WriterPart::unchanged(&base);
    own.state = ImageState::Active;
    let tenure = next_tenure(Some(&base), &crate::env::memory::SeededEntropy::new(3));
    for next in [
        compose(&base, own, &Released::Nothing).unwrap(),
        compose_open(&base, tenure, "host-2", 0, AT),
        compose_by_other(&base, PublicationId(9), others, AT).unwrap(),
    ] {
        assert_eq!(next.retired, []);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_writer_must_not_publish() {
    type Change = fn(&mut WriterPart, &Manifest);
    let base = example().await;
    let changes: [(&str, Change); 10] = [
        ("the LSN would go back", |own, _| own.lsn = Lsn(1)),
        ("the size would go back", |own, _| own.size_bytes -= 4096),
        ("the watermark would go back", |own, _| own.watermark.0 -= 1),
        ("the next segment's number would go back", |own, _| {
            own.next_segment.0 -= 1;
        }),
        ("onto a base that carries publication", |own, base| {
            own.publication = base.publication;
        }),
        ("does not publish a manifest that is Tombstone", |own, _| {
            own.state = ImageState::Tombstone;
        }),
        ("neither protected", |own, base| {
            append_segment(own, base, 89)
        }),
        ("neither protected", |own, base| {
            append_segment(own, base, 91);
            own.segments.last_mut().unwrap().name.epoch.0 += 1;
        }),
        ("neither protected", |own, base| {
            append_segment(own, base, 91);
            own.segments.last_mut().unwrap().name.incarnation = Incarnation(1);
        }),
        ("not be a valid manifest", |own, _| {
            own.tail.push(own.next_segment)
        }),
    ];
    for (expected, change) in changes {
        let mut own = WriterPart::unchanged(&base);
        change(&mut own, &base);
        let refused = compose(&base, own, &Released::Nothing).unwrap_err();
        assert!(
            refused.to_string().contains(expected),
            "{expected}: {refused}"
        );
    }
    let foreign = Tenure {
        id: TenureId(0),
        ..base.tenure
    };
    let own = WriterPart::unchanged(&base);
    let refused = compose_publication(&base, foreign, own, &Released::Nothing, AT);
    assert!(matches!(refused, Err(RuleBroken::OtherTenure { .. })));
}

#[tokio::test(start_paused = true)]
async fn others_change_their_part_only() {
    let base = example().await;
    let part = OthersPart {
        oldest_retained: Version(4),
        snapshots: Vec::new(),
        pins: Vec::new(),
        data_keys: base.data_keys.clone(),
    };
    let next = compose_by_other(&base, PublicationId(9), part.clone(), AT).unwrap();
    assert_eq!(OthersPart::of(&next), part);
    assert_eq!(next.publication, base.publication);
    assert_eq!(next.others.last(), Some(&PublicationId(9)));
    let mut expected = base.clone();
    expected.version = base.version.next();
    expected.published_at = AT;
    expected.others = next.others.clone();
    expected.oldest_retained = Version(4);
    expected.snapshots.clear();
    expected.pins.clear();
    assert_eq!(next, expected);

    let forgetting_less = OthersPart {
        oldest_retained: Version(0),
        ..part
    };
    let refused = compose_by_other(&base, PublicationId(9), forgetting_less, AT);
    assert!(matches!(refused, Err(RuleBroken::WentBack { .. })));
    let mut twice = OthersPart::of(&base);
    twice.snapshots.push(base.snapshots[0].clone());
    let refused = compose_by_other(&base, PublicationId(9), twice, AT);
    assert!(matches!(refused, Err(RuleBroken::Invalid(_))));
}

#[tokio::test(start_paused = true)]
async fn a_tenure_begins_with_everything_of_the_base() {
    let base = example().await;
    let tenure = next_tenure(Some(&base), &crate::env::memory::SeededEntropy::new(3));
    assert_eq!(tenure.epoch, base.tenure.epoch.next());
    let opened = compose_open(&base, tenure, "host-2", 2 * GIB, AT);
    let mut expected = base.clone();
    expected.version = base.version.next();
    expected.tenure = tenure;
    expected.publication = FIRST_PUBLICATION;
    expected.watermark = ObjectSequence(0);
    expected.owner = "host-2".to_owned();
    expected.size_bytes = 2 * GIB;
    expected.published_at = AT;
    assert_eq!(opened, expected);

    let taken = compose_takeover(&base, tenure, AT);
    let record = taken.takeovers[0].clone();
    expected.state = ImageState::Clean;
    expected.owner = String::new();
    expected.size_bytes = base.size_bytes;
    expected.takeovers = taken.takeovers.clone();
    assert_eq!(taken, expected, "the retired list too: readers may be left");
    assert_eq!((record.from, record.at_lsn), (base.tenure, base.lsn));
}

#[tokio::test(start_paused = true)]
async fn a_new_image_under_a_tombstone_carries_pins_and_numbers() {
    let mut tombstone = example().await;
    tombstone.state = ImageState::Tombstone;
    let new = NewImage {
        image: image(),
        incarnation: Incarnation(5),
        page_size: page_size(),
        size_bytes: GIB,
        data_key: None,
    };
    let tenure = next_tenure(Some(&tombstone), &crate::env::memory::SeededEntropy::new(3));
    let created = compose_create(Some(&tombstone), &new, tenure, "host-1", AT);
    created.validate().unwrap();
    assert_eq!(created.pins, tombstone.pins);
    assert_eq!(created.version, tombstone.version.next());
    assert_eq!(created.tenure.epoch, tombstone.tenure.epoch.next());
    assert_eq!(created.oldest_retained, created.version);
    assert_eq!(created.next_segment, tombstone.next_segment);
    assert_eq!(
        (created.incarnation, created.segments),
        (Incarnation(5), vec![])
    );
    assert_eq!(created.publication, PublicationCounter(1));
}

#[tokio::test(start_paused = true)]
async fn lists_that_grow_forget_their_beginning() {
    let world = World::new();
    let mut base = world.first_server().await.base;
    base.others = vec![PublicationId(0); OTHERS_MAX];
    base.others[1] = PublicationId(1);
    let part = OthersPart::of(&base);
    let next = compose_by_other(&base, PublicationId(9), part, AT).unwrap();
    assert_eq!(next.others.len(), OTHERS_MAX);
    assert_eq!(
        (next.others[0], next.others[OTHERS_MAX - 1]),
        (PublicationId(1), PublicationId(9))
    );

    let at = world.clock.wall();
    for _ in 0..TAKEOVERS_MAX + 2 {
        let tenure = next_tenure(Some(&base), &*world.entropy);
        base = compose_takeover(&base, tenure, at);
        base.state = ImageState::Active;
    }
    assert_eq!(base.takeovers.len(), TAKEOVERS_MAX);
    assert_eq!(base.takeovers[0].from.epoch.0, 3);

    let owner = "ü".repeat(OWNER_MAX_BYTES);
    let tenure = next_tenure(Some(&base), &*world.entropy);
    let opened = compose_open(&base, tenure, &owner, 0, at);
    assert!(opened.validate().is_ok() && !opened.owner.is_empty());
    let _ = Server::active(&opened).compose_checkpoint();
}
