//! [`decide_opening`] as a table.

use super::world::{GIB, World, image, page_size, request};
use crate::env::WallTime;
use crate::format::buffer_metadata::BufferMetadata;
use crate::format::manifest::{ImageState, Manifest};
use crate::ids::{BufferStoreId, EpochNumber, Lsn, PageSize, Tenure, TenureId};
use crate::protocol::{
    BufferState, Decision, Intent, OpeningRequest, RefusalReason, compose_takeover, decide_opening,
};

fn tenure(id: u128) -> Tenure {
    Tenure {
        epoch: EpochNumber(9),
        id: TenureId(id),
    }
}

const MINE: u128 = 0xa;
const MINE_PENDING: u128 = 0xb;
const THEIRS: u128 = 0xc;

fn metadata(confirmed: bool) -> BufferMetadata {
    BufferMetadata {
        buffer_store: BufferStoreId(1),
        image: image(),
        incarnation: None,
        confirmed: confirmed.then_some(tenure(MINE)),
        pending: vec![tenure(0xd), tenure(MINE_PENDING)],
        last_lsn: Lsn(0),
        published: None,
    }
}

/// The newest manifest: `state` of `owner`, at LSN 70, 1 GiB.
fn newest(base: &Manifest, state: ImageState, owner: u128) -> Manifest {
    let mut manifest = base.clone();
    manifest.state = state;
    manifest.tenure = tenure(owner);
    manifest.lsn = Lsn(70);
    manifest
}

/// A buffer store: whether it has a confirmed tenure, whether it is drained, its last LSN.
#[derive(Debug, Clone, Copy)]
struct Buffer(bool, bool, u64);

fn decide(newest: Option<&Manifest>, buffer: Buffer, request: &OpeningRequest) -> Decision {
    let metadata = metadata(buffer.0);
    let state = BufferState {
        metadata: &metadata,
        drained: buffer.1,
        last_lsn: Lsn(buffer.2),
        location: "/buffers/disk0",
    };
    decide_opening(newest, &state, request)
}

/// What a refusal says beside its reason: takeover, adopt, move away.
fn check_refused(
    name: &str,
    decision: Decision,
    reason: RefusalReason,
    advice: (bool, bool, bool),
) {
    let Decision::Refuse(refusal) = decision else {
        panic!("{name}: {decision:?}");
    };
    assert_eq!(refusal.reason, reason, "{name}");
    let given = (refusal.takeover, refusal.adopt, refusal.move_away.is_some());
    assert_eq!(given, advice, "{name}");
    let text = refusal.to_string();
    for (advised, words) in [
        (advice.0, "`mvps image takeover disk0`"),
        (advice.1, "`mvps image adopt disk0`"),
        (advice.2, "move /buffers/disk0 away"),
    ] {
        assert_eq!(text.contains(words), advised, "{name}: {text}");
    }
}

const FRESH: Buffer = Buffer(false, true, 0);
const DRAINED: Buffer = Buffer(true, true, 70);
const HOLDING: Buffer = Buffer(true, false, 80);
const HOLDING_UNOWNED: Buffer = Buffer(false, false, 80);

#[tokio::test(start_paused = true)]
async fn an_image_that_is_there() {
    use ImageState::{Active, Clean};
    use RefusalReason::{OtherActive, OtherHistory};
    let base = World::new().first_server().await.base;
    let open = Decision::Open { size_bytes: GIB };
    let behind = |buffer| RefusalReason::RolledBack {
        buffer: Lsn(buffer),
    };
    for (state, owner, buffer, refused) in [
        // There is an active writer: only that tenure's own buffer store gets in.
        (Active, MINE, HOLDING, None),
        (Active, MINE, DRAINED, None),
        (Active, MINE, Buffer(true, true, 90), None),
        (Active, MINE_PENDING, HOLDING, None),
        (Active, MINE_PENDING, HOLDING_UNOWNED, None),
        (Active, THEIRS, FRESH, Some((OtherActive, false))),
        (Active, THEIRS, DRAINED, Some((OtherActive, false))),
        (Active, THEIRS, HOLDING, Some((OtherActive, true))),
        (Active, MINE, FRESH, Some((OtherActive, false))),
        // An old copy of the buffer store.
        (
            Active,
            MINE,
            Buffer(true, false, 69),
            Some((behind(69), true)),
        ),
        (
            Active,
            MINE,
            Buffer(true, true, 69),
            Some((behind(69), false)),
        ),
        (
            Active,
            MINE_PENDING,
            Buffer(true, false, 1),
            Some((behind(1), true)),
        ),
        // There is no active writer: any drained buffer store gets in.
        (Clean, THEIRS, FRESH, None),
        (Clean, THEIRS, DRAINED, None),
        (Clean, THEIRS, Buffer(true, true, 3), None),
        (Clean, MINE, DRAINED, None),
        (Clean, MINE, Buffer(true, true, 3), None),
        // One that holds data only if it is its own publication, and not older.
        (Clean, MINE, HOLDING, None),
        (Clean, MINE_PENDING, HOLDING, None),
        (
            Clean,
            MINE,
            Buffer(true, false, 69),
            Some((behind(69), true)),
        ),
        (Clean, THEIRS, HOLDING, Some((OtherHistory, true))),
        (Clean, THEIRS, HOLDING_UNOWNED, Some((OtherHistory, true))),
    ] {
        let name = format!("{state:?} {owner:x} {buffer:?}");
        let newest = newest(&base, state, owner);
        let decision = decide(Some(&newest), buffer, &request());
        match refused {
            None => assert_eq!(decision, open, "{name}"),
            Some((reason, move_away)) => {
                let advice = (state == Active, false, move_away);
                check_refused(&name, decision, reason, advice);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_not_there() {
    use RefusalReason::{Deleted, DeletedButBuffered, NoSuchImage, Vanished};
    let base = World::new().first_server().await.base;
    let tombstone = newest(&base, ImageState::Tombstone, THEIRS);
    let abandoned = newest(&base, ImageState::Abandoned, MINE);
    let unsized_request = OpeningRequest {
        image_size_bytes: None,
        ..request()
    };
    let looking = OpeningRequest {
        intent: Intent::ExistingOnly,
        ..request()
    };
    let create = Decision::Create { size_bytes: GIB };
    for (name, found, buffer, request, refused) in [
        ("first opening", None, FRESH, request(), None),
        (
            "no size",
            None,
            FRESH,
            unsized_request.clone(),
            Some((NoSuchImage, false)),
        ),
        (
            "INFO",
            None,
            FRESH,
            looking.clone(),
            Some((NoSuchImage, false)),
        ),
        (
            "it was served",
            None,
            DRAINED,
            request(),
            Some((Vanished, true)),
        ),
        (
            "it was served",
            None,
            HOLDING,
            looking.clone(),
            Some((Vanished, true)),
        ),
        (
            "unowned data",
            None,
            HOLDING_UNOWNED,
            request(),
            Some((Vanished, true)),
        ),
        ("deleted", Some(&tombstone), FRESH, request(), None),
        ("deleted", Some(&tombstone), DRAINED, request(), None),
        ("abandoned", Some(&abandoned), DRAINED, request(), None),
        (
            "deleted",
            Some(&tombstone),
            HOLDING,
            request(),
            Some((DeletedButBuffered, true)),
        ),
        (
            "abandoned",
            Some(&abandoned),
            HOLDING,
            request(),
            Some((DeletedButBuffered, true)),
        ),
        (
            "deleted, no size",
            Some(&tombstone),
            FRESH,
            unsized_request,
            Some((Deleted, false)),
        ),
        (
            "deleted, INFO",
            Some(&tombstone),
            DRAINED,
            looking,
            Some((Deleted, false)),
        ),
    ] {
        let name = format!("{name} {buffer:?}");
        let decision = decide(found, buffer, &request);
        match refused {
            None => assert_eq!(decision, create, "{name}"),
            Some((reason, move_away)) => {
                check_refused(&name, decision, reason, (false, false, move_away));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn sizes_and_page_sizes() {
    let base = World::new().first_server().await.base;
    let mine = newest(&base, ImageState::Active, MINE);
    let asking = |image_size_bytes, intent| OpeningRequest {
        image_size_bytes,
        intent,
        ..request()
    };
    for (request, expected) in [
        (asking(None, Intent::CreateOrGrow), GIB),
        (asking(Some(4096), Intent::CreateOrGrow), GIB),
        (asking(Some(2 * GIB), Intent::CreateOrGrow), 2 * GIB),
        (asking(Some(2 * GIB), Intent::ExistingOnly), GIB),
    ] {
        let decision = decide(Some(&mine), HOLDING, &request);
        assert_eq!(
            decision,
            Decision::Open {
                size_bytes: expected
            }
        );
    }
    for size_bytes in [0, 1, GIB + 512] {
        let request = asking(Some(size_bytes), Intent::CreateOrGrow);
        let reason = RefusalReason::InvalidSize { size_bytes };
        for found in [None, Some(&mine)] {
            let decision = decide(found, Buffer(false, true, 99), &request);
            check_refused("size", decision, reason, (false, false, false));
        }
    }
    let larger_pages = PageSize::from_bits(16).unwrap();
    let request = OpeningRequest {
        page_size: larger_pages,
        ..request()
    };
    let reason = RefusalReason::OtherPageSize {
        image: page_size(),
        request: larger_pages,
    };
    let decision = decide(Some(&mine), HOLDING, &request);
    check_refused("page size", decision, reason, (false, false, false));
}

#[tokio::test(start_paused = true)]
async fn a_buffer_store_that_was_taken_over_may_be_adopted() {
    let world = World::new();
    let base = world.first_server().await.base;
    let mine = newest(&base, ImageState::Active, MINE);
    let taken = compose_takeover(&mine, tenure(THEIRS), WallTime::default());
    let mut metadata = metadata(true);
    metadata.incarnation = Some(base.incarnation);
    let other_life = BufferMetadata {
        incarnation: None,
        ..metadata.clone()
    };
    let state = |metadata, last_lsn| BufferState {
        metadata,
        drained: false,
        last_lsn: Lsn(last_lsn),
        location: "/buffers/disk0",
    };
    let decision = decide_opening(Some(&taken), &state(&metadata, 80), &request());
    let Decision::Refuse(refusal) = &decision else {
        panic!("refused");
    };
    let advice = "since this buffer store was the active writer's: to let it back in with everything \
                  it holds, run `mvps image adopt disk0`.";
    assert!(refusal.to_string().contains(advice), "{refusal}");
    let reason = RefusalReason::OtherHistory;
    check_refused("taken over", decision, reason, (false, true, true));

    // Somebody committed since; another life of the name; an old copy.
    let mut later = taken.clone();
    later.lsn = Lsn(71);
    assert!(!state(&metadata, 80).continues(&later));
    assert!(!state(&metadata, 69).continues(&taken));
    assert!(!state(&other_life, 80).continues(&taken));
}

#[tokio::test(start_paused = true)]
async fn the_operator_is_told_what_to_do() {
    let base = World::new().first_server().await.base;
    let theirs = newest(&base, ImageState::Active, THEIRS);
    let Decision::Refuse(refusal) = decide(Some(&theirs), HOLDING, &request()) else {
        panic!("refused");
    };
    insta::assert_snapshot!(refusal.to_string());
}
