//! Random calls against a model: the set of what was put and not removed.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::player::{LIMIT_BYTES, Player, SLAB_BYTES, key, now, piece};
use crate::env::FrameCache;
use crate::env::memory::{Crash, DiskFault, SeededEntropy};

#[derive(Debug, Clone)]
enum Call {
    Put(u64, usize),
    Get(u64),
    Remove(u64),
    LimitTo(u64),
    Reopen,
    Kill,
    Fault(DiskFault),
    StaleIndex,
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let number = 0_u64..120;
    let limits = prop::sample::select(vec![0, SLAB_BYTES, 3 * SLAB_BYTES, LIMIT_BYTES]);
    let faults = vec![
        DiskFault::DiskFull,
        DiskFault::WriteFails,
        DiskFault::ReadFails,
    ];
    let call = prop_oneof![
        40 => (number.clone(), 8_usize..4500).prop_map(|(it, length)| Call::Put(it, length)),
        30 => number.clone().prop_map(Call::Get),
        4 => number.prop_map(Call::Remove),
        1 => limits.prop_map(Call::LimitTo),
        1 => Just(Call::Reopen),
        1 => Just(Call::Kill),
        1 => prop::sample::select(faults).prop_map(Call::Fault),
        1 => Just(Call::StaleIndex),
    ];
    prop::collection::vec(call, 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn it_returns_what_was_put_or_nothing(calls in calls()) {
        let mut player = Player::default();
        let mut old = player.index.places();
        // What may be there: a piece is always the same for a name and a length.
        let mut put: BTreeSet<(u64, usize)> = BTreeSet::new();
        let mut is_stale = false;
        for call in calls {
            match call {
                Call::Put(number, length) => {
                    put.insert((number, length));
                    player.cache().put(key(number), piece(key(number), length));
                }
                Call::Get(number) => {
                    if let Some(found) = now(player.cache().get(key(number))) {
                        prop_assert!(put.contains(&(number, found.len())), "{} was not put", number);
                        prop_assert_eq!(&found, &piece(key(number), found.len()));
                    }
                }
                Call::Remove(number) => {
                    player.cache().remove(key(number));
                    prop_assert_eq!(now(player.cache().get(key(number))), None);
                    if !is_stale {
                        put.retain(|(it, _)| *it != number);
                    }
                }
                Call::LimitTo(limit) => player.cache().limit_to(limit),
                Call::Reopen => player.reopen(),
                Call::Kill => {
                    player.files.crash(Crash::ProcessKill, &SeededEntropy::new(0));
                    player.reopen();
                }
                Call::Fault(fault) => player.files.script(fault),
                Call::StaleIndex => {
                    // It may bring back what was removed.
                    is_stale = true;
                    let now = player.index.places();
                    player.index.restore(std::mem::replace(&mut old, now));
                }
            }
            player.check_room();
            let usage = player.cache().usage();
            prop_assert!(is_stale || usage.entries == player.index.places().len() as u64);
        }
    }
}
