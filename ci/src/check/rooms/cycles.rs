//! Cycles in a graph of numbered nodes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The nodes that each node points to.
pub type Graph = BTreeMap<usize, BTreeSet<usize>>;

/// The groups of nodes that reach each other, each sorted; a group comes after all that it points
/// to.
pub fn groups(nodes: usize, graph: &Graph) -> Vec<Vec<usize>> {
    let mut search = Search {
        graph,
        order: vec![None; nodes],
        lowest: vec![0; nodes],
        open: Vec::new(),
        visited: 0,
        groups: Vec::new(),
    };
    for node in 0..nodes {
        if search.order[node].is_none() {
            search.visit(node);
        }
    }
    search.groups
}

/// Tarjan's algorithm.
struct Search<'a> {
    graph: &'a Graph,
    order: Vec<Option<usize>>,
    lowest: Vec<usize>,
    open: Vec<usize>,
    visited: usize,
    groups: Vec<Vec<usize>>,
}

impl Search<'_> {
    fn visit(&mut self, node: usize) {
        let own = self.visited;
        self.visited += 1;
        self.order[node] = Some(own);
        self.lowest[node] = own;
        self.open.push(node);
        let graph = self.graph;
        for next in graph.get(&node).into_iter().flatten().copied() {
            match self.order[next] {
                None => {
                    self.visit(next);
                    self.lowest[node] = self.lowest[node].min(self.lowest[next]);
                }
                Some(order) if self.open.contains(&next) => {
                    self.lowest[node] = self.lowest[node].min(order);
                }
                Some(_) => {}
            }
        }
        if self.lowest[node] == own {
            let from = self.open.iter().position(|open| *open == node);
            let mut group = self.open.split_off(from.expect("it was opened above"));
            group.sort_unstable();
            self.groups.push(group);
        }
    }
}

/// A shortest cycle inside `group`, from its smallest node; empty if there is none.
pub fn shortest_cycle(group: &[usize], graph: &Graph) -> Vec<usize> {
    let mut shortest: Vec<usize> = Vec::new();
    for start in group {
        let cycle = cycle_through(*start, group, graph);
        if !cycle.is_empty() && (shortest.is_empty() || cycle.len() < shortest.len()) {
            shortest = cycle;
        }
    }
    shortest
}

/// The shortest way from `start` back to it inside `group`.
fn cycle_through(start: usize, group: &[usize], graph: &Graph) -> Vec<usize> {
    let mut came_from = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for next in graph.get(&node).into_iter().flatten() {
            if *next == start {
                let mut cycle = vec![node];
                while let Some(before) = came_from.get(&cycle[cycle.len() - 1]) {
                    cycle.push(*before);
                }
                cycle.reverse();
                return cycle;
            }
            if group.contains(next) && !came_from.contains_key(next) {
                came_from.insert(*next, node);
                queue.push_back(*next);
            }
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(usize, usize)]) -> Graph {
        let mut graph = Graph::new();
        for (from, to) in edges {
            graph.entry(*from).or_default().insert(*to);
        }
        graph
    }

    #[test]
    fn groups_come_after_what_they_point_to() {
        let check = |nodes, edges: &[(usize, usize)], expected: &[&[usize]]| {
            assert_eq!(groups(nodes, &graph(edges)), expected, "{edges:?}");
        };
        check(3, &[(0, 1), (1, 2)], &[&[2], &[1], &[0]]);
        check(3, &[(0, 1), (1, 0), (1, 2)], &[&[2], &[0, 1]]);
        check(4, &[(0, 1), (1, 2), (2, 3), (3, 1)], &[&[1, 2, 3], &[0]]);
    }

    #[test]
    fn the_shortest_cycle_is_found() {
        let check = |group: &[usize], edges: &[(usize, usize)], expected: &[usize]| {
            assert_eq!(shortest_cycle(group, &graph(edges)), expected, "{edges:?}");
        };
        check(&[0, 1], &[(0, 1), (1, 0)], &[0, 1]);
        check(&[0, 1, 2], &[(0, 1), (1, 2), (2, 0)], &[0, 1, 2]);
        check(&[0, 1, 2], &[(0, 1), (1, 2), (2, 0), (2, 1)], &[1, 2]);
        check(&[0], &[(0, 1)], &[]);
    }
}
