//! What comes next, as a table.

use crate::engine::publisher::Urgency;

use super::*;
use crate::engine::publisher::Pace;

fn serving() -> Picture {
    Picture {
        checkpoint_bytes: 100,
        publisher_idle: true,
        ..Picture::default()
    }
}

fn check(picture: Picture, expected: Option<Action>) {
    assert_eq!(next_action(&picture), expected, "{picture:?}");
}

#[test]
fn an_idle_image_does_nothing() {
    check(serving(), None);
    check(
        Picture {
            due: true,
            ..serving()
        },
        None,
    );
    check(
        Picture {
            active_bytes: 5,
            ..serving()
        },
        None,
    );
}

#[test]
fn nothing_is_never_sealed() {
    check(
        Picture {
            checkpoint_bytes: 0,
            ..serving()
        },
        None,
    );
}

#[test]
fn a_generation_is_sealed_by_size_by_time_and_at_closing() {
    check(
        Picture {
            active_bytes: 100,
            publisher_idle: false,
            ..serving()
        },
        Some(Action::Seal),
    );
    check(
        Picture {
            active_bytes: 1,
            due: true,
            ..serving()
        },
        Some(Action::Seal),
    );
    check(
        Picture {
            active_bytes: 1,
            closing: true,
            ..serving()
        },
        Some(Action::Seal),
    );
    check(
        Picture {
            active_bytes: 1,
            due: true,
            publisher_idle: false,
            ..serving()
        },
        None,
    );
}

#[test]
fn the_publisher_grows_first_and_then_checkpoints() {
    check(
        Picture {
            sealed: 1,
            ..serving()
        },
        Some(Action::Checkpoint),
    );
    check(
        Picture {
            sealed: 1,
            grow: true,
            ..serving()
        },
        Some(Action::Grow),
    );
    check(
        Picture {
            sealed: 1,
            grow: true,
            publisher_idle: false,
            ..serving()
        },
        None,
    );
}

#[test]
fn an_image_closes_when_everything_is_published_and_nobody_reads() {
    let closing = Picture {
        closing: true,
        views_closed: true,
        ..serving()
    };
    check(closing, Some(Action::Close));
    check(
        Picture {
            views_closed: false,
            ..closing
        },
        None,
    );
    check(
        Picture {
            buffer_in_use: true,
            ..closing
        },
        None,
    );
    check(
        Picture {
            sealed: 1,
            ..closing
        },
        Some(Action::Checkpoint),
    );
    check(
        Picture {
            publisher_idle: false,
            ..closing
        },
        None,
    );
}

#[test]
fn a_failed_image_only_closes() {
    let failed = Picture {
        failed: true,
        sealed: 2,
        active_bytes: 200,
        ..serving()
    };
    check(failed, None);
    check(
        Picture {
            closing: true,
            ..failed
        },
        Some(Action::GiveUp),
    );
    check(
        Picture {
            closing: true,
            publisher_idle: false,
            ..failed
        },
        None,
    );
}

#[test]
fn the_pace_of_a_step_of_cleaning() {
    let check = |picture: Picture, expected: Pace| {
        assert_eq!(pace(&picture), expected, "{picture:?}");
    };
    let cleaning = |cleaning| Picture {
        cleaning,
        checkpoint_bytes: 100,
        ..Picture::default()
    };
    for urgency in [Urgency::None, Urgency::WhenIdle, Urgency::InTurns] {
        let alone = cleaning(urgency);
        check(alone, Pace::Leisurely);
        check(
            Picture {
                active_bytes: 1,
                ..alone
            },
            Pace::Leisurely,
        );
        let waiting = Picture { sealed: 1, ..alone };
        let due = Picture {
            active_bytes: 1,
            due: true,
            ..alone
        };
        let expected = match urgency {
            Urgency::InTurns => Pace::Brisk,
            _ => Pace::Ending,
        };
        check(waiting, expected);
        check(due, expected);
        check(
            Picture {
                closing: true,
                ..waiting
            },
            Pace::Ending,
        );
        check(Picture { grow: true, ..due }, Pace::Ending);
    }
}
