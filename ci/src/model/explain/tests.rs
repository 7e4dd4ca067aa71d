//! Hand-made histories with one known answer each, and generated ones: executions of random
//! concurrent operations are always explained, and damaged states are not.

use std::ops::Range;

use super::*;
use crate::model::history::Survives;
use crate::rig::numbers::Numbers;

const UNITS: u32 = 8;
const FIRST_STAMP: Stamp = 100;

fn fresh() -> History {
    History::new(vec![ZEROES; UNITS as usize], FIRST_STAMP)
}

/// The whole image, with these stamps at its beginning.
fn image(stamps: &[Stamp]) -> Vec<(u32, Stamp)> {
    let mut seen = vec![ZEROES; UNITS as usize];
    seen[..stamps.len()].copy_from_slice(stamps);
    (0..).zip(seen).collect()
}

fn explain(history: &History, stamps: &[Stamp]) -> Result<Explanation, Violation> {
    let must = history.survivors(Survives::Acknowledged);
    Explainer::new(history).explain(&image(stamps), &must, Instant::MAX)
}

fn write(history: &mut History, range: Range<u32>) -> (OperationId, Stamp) {
    history.issue_range(range, Effect::Written)
}

#[test]
fn acknowledged_operations_are_there_in_their_order() {
    let mut history = fresh();
    let (first, a) = write(&mut history, 0..2);
    history.acknowledge(first, false);
    let (second, b) = write(&mut history, 1..3);
    history.acknowledge(second, false);
    assert!(explain(&history, &[a, b, b]).is_ok());
    for wrong in [
        &[a, a, b][..],
        &[a, b, 0],
        &[0, b, b],
        &[a, a, 0],
        &[0, 0, 0],
    ] {
        let found = explain(&history, wrong);
        assert!(
            matches!(found, Err(Violation::Lost { .. })),
            "{wrong:?}: {found:?}"
        );
    }
}

#[test]
fn an_unanswered_operation_is_there_whole_or_not_at_all() {
    let mut history = fresh();
    let (first, a) = write(&mut history, 0..3);
    history.acknowledge(first, false);
    let (_, b) = write(&mut history, 0..3);
    assert!(explain(&history, &[a, a, a]).is_ok());
    assert!(explain(&history, &[b, b, b]).is_ok());
    assert!(explain(&history, &[a, b, b]).is_err());
}

#[test]
fn concurrent_operations_take_one_order_for_all_units() {
    let mut history = fresh();
    let (first, a) = write(&mut history, 0..2);
    let (second, b) = write(&mut history, 0..2);
    history.acknowledge(first, false);
    history.acknowledge(second, false);
    assert!(explain(&history, &[a, a]).is_ok());
    assert!(explain(&history, &[b, b]).is_ok());
    let found = explain(&history, &[a, b]);
    assert!(matches!(found, Err(Violation::Mixture { .. })), "{found:?}");
}

#[test]
fn what_is_seen_brings_everything_before_it() {
    let mut history = fresh();
    let (first, a) = write(&mut history, 0..1);
    history.acknowledge(first, false);
    let (second, b) = write(&mut history, 1..2);
    history.acknowledge(second, false);
    // Nothing must survive, as after the loss of a buffer: but `b` without `a` is no prefix.
    let check = |stamps: &[Stamp]| {
        let explainer = Explainer::new(&history);
        explainer.explain(&image(stamps), &[], Instant::MAX)
    };
    assert!(check(&[0, 0]).is_ok());
    assert!(check(&[a, 0]).is_ok());
    assert!(check(&[a, b]).is_ok());
    assert!(matches!(check(&[0, b]), Err(Violation::Lost { .. })));
}

#[test]
fn zeroes_need_an_author() {
    let mut history = fresh();
    let (first, a) = write(&mut history, 0..2);
    history.acknowledge(first, false);
    let (_, _) = history.issue_range(0..1, Effect::Zeroed);
    assert!(explain(&history, &[a, a]).is_ok());
    assert!(explain(&history, &[0, a]).is_ok());
    assert!(explain(&history, &[a, 0]).is_err());
    // The zeroing was the only possible one, so what came before it is there too.
    let (third, c) = write(&mut history, 2..3);
    assert!(explain(&history, &[0, a, c]).is_ok());
    history.acknowledge(third, false);
    assert!(explain(&history, &[0, a, 0]).is_err());
}

#[test]
fn unknown_stamps_undead_and_the_future_are_named() {
    let mut history = fresh();
    let (first, a) = write(&mut history, 0..1);
    history.never(first);
    assert!(matches!(
        explain(&history, &[a]),
        Err(Violation::Undead { .. })
    ));
    assert!(matches!(
        explain(&history, &[7]),
        Err(Violation::UnknownStamp { .. })
    ));
    let (_, b) = write(&mut history, 1..2);
    assert!(matches!(
        explain(&history, &[b]),
        Err(Violation::UnknownStamp { .. })
    ));
    let end = history.tick();
    let (_, c) = write(&mut history, 2..3);
    let seen = image(&[0, b, c]);
    let found = Explainer::new(&history).explain(&seen, &[], end);
    assert!(
        matches!(found, Err(Violation::FromTheFuture { .. })),
        "{found:?}"
    );
}

#[test]
fn only_what_was_flushed_must_survive_a_lost_buffer() {
    let mut history = fresh();
    let (first, _) = write(&mut history, 0..1);
    history.acknowledge(first, false);
    let flush = history.tick();
    let (second, _) = write(&mut history, 1..2);
    history.acknowledge(second, false);
    history.flushed(flush);
    assert_eq!(history.survivors(Survives::Flushed), vec![first]);
    let (third, _) = write(&mut history, 2..3);
    history.acknowledge(third, true);
    assert_eq!(
        history.survivors(Survives::Flushed),
        vec![first, second, third]
    );
    assert_eq!(history.survivors(Survives::Checkpointed), vec![]);
}

#[test]
fn a_transaction_must_not_overlook_a_write() {
    let mut history = fresh();
    let (first, a) = write(&mut history, 0..1);
    history.acknowledge(first, false);
    let (second, _) = write(&mut history, 0..1);
    history.acknowledge(second, false);
    let (commit, _) = write(&mut history, 3..4);
    history.acknowledge(commit, false);
    assert!(Explainer::new(&history).serializable().is_ok());
    history.has_read(commit, vec![(0, a)]);
    assert!(Explainer::new(&history).serializable().is_err());
}

/// A random execution: operations with intervals and commit points, of which a prefix happened.
struct Execution {
    history: History,
    state: Vec<Stamp>,
    must: Vec<OperationId>,
}

fn execute(numbers: &mut Numbers) -> Execution {
    let mut history = fresh();
    let mut state = vec![ZEROES; UNITS as usize];
    let mut open: Vec<(OperationId, bool)> = Vec::new();
    let mut crashed = false;
    for _ in 0..40 {
        match numbers.below(4) {
            0 | 1 => {
                let start = u32::try_from(numbers.below(u64::from(UNITS))).unwrap();
                let longest = u64::from(UNITS - start);
                let length = 1 + u32::try_from(numbers.below(longest)).unwrap();
                let effect = match numbers.below(4) {
                    0 => Effect::Zeroed,
                    _ => Effect::Written,
                };
                let (id, _) = history.issue_range(start..start + length, effect);
                open.push((id, false));
            }
            2 if !open.is_empty() && !crashed => {
                let chosen = usize::try_from(numbers.below(open.len() as u64)).unwrap();
                let (id, committed) = &mut open[chosen];
                if !std::mem::replace(committed, true) {
                    let operation = &history.operations()[id.0];
                    for (unit, effect) in &operation.effects {
                        state[*unit as usize] = match effect {
                            Effect::Written => operation.stamp,
                            Effect::Zeroed => ZEROES,
                        };
                    }
                }
            }
            _ => {
                if let Some(at) = open.iter().position(|(_, committed)| *committed) {
                    let (id, _) = open.swap_remove(at);
                    history.acknowledge(id, false);
                }
            }
        }
        crashed |= numbers.below(40) == 0;
    }
    let must = history.survivors(Survives::Acknowledged);
    Execution {
        history,
        state,
        must,
    }
}

#[test]
fn every_execution_is_explained() {
    let mut numbers = Numbers::new(1);
    for round in 0..3000 {
        let run = execute(&mut numbers);
        let found =
            Explainer::new(&run.history).explain(&image(&run.state), &run.must, Instant::MAX);
        assert!(
            found.is_ok(),
            "round {round}: {found:?}\n{:#?}",
            run.history
        );
    }
}

/// Undoes one acknowledged write on one unit of a state: never a prefix, unless that operation
/// is not the one that the unit shows.
#[test]
fn a_lost_update_is_never_explained() {
    let mut numbers = Numbers::new(2);
    let mut damaged = 0;
    for round in 0..3000 {
        let run = execute(&mut numbers);
        let acknowledged = run.must.iter().map(|id| &run.history.operations()[id.0]);
        let alone = acknowledged.clone().find(|operation| {
            let units = || operation.effects.keys();
            let mut others = acknowledged.clone().filter(|o| o.stamp != operation.stamp);
            let shares = |unit: &u32| others.any(|other| other.effects.contains_key(unit));
            units().all(|unit| run.state[*unit as usize] == operation.stamp) && !units().any(shares)
        });
        let zeroings = run.history.operations().iter().any(|operation| {
            operation
                .effects
                .values()
                .any(|effect| *effect == Effect::Zeroed)
        });
        if let (Some(operation), false) = (alone, zeroings) {
            damaged += 1;
            let mut state = run.state.clone();
            let unit = *operation.effects.keys().next().unwrap();
            state[unit as usize] = ZEROES;
            let explainer = Explainer::new(&run.history);
            let found = explainer.explain(&image(&state), &run.must, Instant::MAX);
            assert!(found.is_err(), "round {round}");
        }
    }
    assert!(damaged >= 5, "only {damaged} states could be damaged");
}
