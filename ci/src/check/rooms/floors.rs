//! Floors: rooms in an order in which as few imports as possible go up, and how high they stand.

use std::collections::BTreeSet;

use super::cycles::{Graph, groups};

/// Beyond this many rooms that all reach each other the order is only a good one: trying all
/// orders takes memory for two to the power of their number.
const EXACT_MAX: usize = 20;

/// Where rooms stand.
#[derive(Debug, PartialEq, Eq)]
pub struct Floors {
    /// The rooms from the bottom to the top.
    pub order: Vec<usize>,
    /// How many floors there are.
    pub count: usize,
    /// The imports that go up: the fewest that any order leaves.
    pub up: BTreeSet<(usize, usize)>,
}

/// The floors of `rooms` rooms with these imports.
pub fn floors(rooms: usize, imports: &Graph) -> Floors {
    let mut order = Vec::with_capacity(rooms);
    for group in groups(rooms, imports) {
        match group.len() {
            1 => order.extend(group),
            2..=EXACT_MAX => order.extend(best_order(&group, imports)),
            _ => order.extend(good_order(&group, imports)),
        }
    }
    let mut up = BTreeSet::new();
    let mut floor = vec![0; rooms];
    for (at, room) in order.iter().enumerate() {
        let below = &order[..at];
        let mut highest = 0;
        for imported in imports.get(room).into_iter().flatten() {
            match below.contains(imported) {
                true => highest = highest.max(floor[*imported]),
                false => {
                    up.insert((*room, *imported));
                }
            }
        }
        floor[*room] = highest + 1;
    }
    let count = floor.iter().copied().max().unwrap_or(0);
    Floors { order, count, up }
}

/// The order of a group, from the bottom, that leaves the fewest imports up: for every set of rooms
/// that may stand at the bottom, the fewest imports up among and out of them.
fn best_order(group: &[usize], imports: &Graph) -> Vec<usize> {
    let bit_of = |room: &usize| group.iter().position(|member| member == room);
    let masks: Vec<u32> = group
        .iter()
        .map(|room| {
            let imported = imports.get(room).into_iter().flatten();
            imported.filter_map(bit_of).map(|bit| 1_u32 << bit).sum()
        })
        .collect();
    let all = (1_u32 << group.len()) - 1;
    // By the set at the bottom: the fewest imports up, and the room on top of it.
    let mut best = vec![(u32::MAX, 0); 1 << group.len()];
    best[0] = (0, 0);
    for set in 0..=all {
        let (so_far, _) = best[set as usize];
        for (bit, mask) in masks.iter().enumerate() {
            if set & (1 << bit) != 0 {
                continue;
            }
            let with = set | (1 << bit);
            let up = so_far + (mask & !with).count_ones();
            let known = &mut best[with as usize];
            if up < known.0 {
                *known = (up, bit);
            }
        }
    }
    let mut order = Vec::with_capacity(group.len());
    let mut set = all;
    while set != 0 {
        let (_, top) = best[set as usize];
        order.push(group[top]);
        set &= !(1 << top);
    }
    order.reverse();
    order
}

/// An order of a large group: next comes the room that imports the fewest of those left.
fn good_order(group: &[usize], imports: &Graph) -> Vec<usize> {
    let mut left: BTreeSet<usize> = group.iter().copied().collect();
    let mut order = Vec::with_capacity(group.len());
    let up = |room: &usize, left: &BTreeSet<usize>| {
        let imported = imports.get(room).into_iter().flatten();
        imported.filter(|imported| left.contains(imported)).count()
    };
    while let Some(next) = left.iter().copied().min_by_key(|room| up(room, &left)) {
        left.remove(&next);
        order.push(next);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_imports_go_up() {
        let check = |rooms, edges: &[(usize, usize)], count, up: &[(usize, usize)]| {
            let mut imports = Graph::new();
            for (from, to) in edges {
                imports.entry(*from).or_default().insert(*to);
            }
            let found = floors(rooms, &imports);
            assert_eq!(found.count, count, "{edges:?}: {found:?}");
            assert_eq!(found.up, up.iter().copied().collect(), "{edges:?}");
        };
        check(0, &[], 0, &[]);
        check(2, &[], 1, &[]);
        check(3, &[(2, 1), (1, 0), (2, 0)], 3, &[]);
        // Without 0 -> 2 there is no cycle; without any other single import there is one.
        check(3, &[(2, 1), (1, 0), (0, 2), (2, 0)], 3, &[(0, 2)]);
    }

    #[test]
    fn both_orders_are_right_without_a_cycle() {
        let imports = Graph::from([(2, BTreeSet::from([1, 0])), (1, BTreeSet::from([0]))]);
        assert_eq!(best_order(&[0, 1, 2], &imports), [0, 1, 2]);
        assert_eq!(good_order(&[0, 1, 2], &imports), [0, 1, 2]);
    }
}
