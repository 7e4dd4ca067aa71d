use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A value that remembers which insertion it came from and how far into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    insertion: u32,
    offset: u64,
}

impl Advance for Mark {
    fn advance(&self, pages: u64) -> Self {
        Self {
            insertion: self.insertion,
            offset: self.offset + pages,
        }
    }
}

fn pages(first: u64, end: u64) -> Range<PageNumber> {
    PageNumber(first)..PageNumber(end)
}

fn mark(insertion: u32) -> Mark {
    Mark {
        insertion,
        offset: 0,
    }
}

/// Every range as `first..end=insertion+offset`.
fn shown(map: &RangeMap<Mark>) -> String {
    let show = |(range, mark): (Range<PageNumber>, &Mark)| {
        let (first, end) = (range.start, range.end);
        format!("{first}..{end}={}+{}", mark.insertion, mark.offset)
    };
    map.iter().map(show).collect::<Vec<_>>().join(" ")
}

#[test]
fn an_insertion_cuts_what_it_overlaps() {
    let check = |first: u64, end: u64, expected: &str| {
        let mut map = RangeMap::new();
        map.insert(pages(10, 20), mark(1));
        map.insert(pages(30, 40), mark(2));
        map.insert(pages(first, end), mark(3));
        assert_eq!(shown(&map), expected, "inserting {first}..{end}");
    };
    check(0, 10, "0..10=3+0 10..20=1+0 30..40=2+0");
    check(0, 11, "0..11=3+0 11..20=1+1 30..40=2+0");
    check(10, 20, "10..20=3+0 30..40=2+0");
    check(10, 15, "10..15=3+0 15..20=1+5 30..40=2+0");
    check(10, 25, "10..25=3+0 30..40=2+0");
    check(12, 15, "10..12=1+0 12..15=3+0 15..20=1+5 30..40=2+0");
    check(15, 20, "10..15=1+0 15..20=3+0 30..40=2+0");
    check(15, 35, "10..15=1+0 15..35=3+0 35..40=2+5");
    check(20, 30, "10..20=1+0 20..30=3+0 30..40=2+0");
    check(0, 50, "0..50=3+0");
    check(15, 15, "10..20=1+0 30..40=2+0");
}

#[test]
fn a_clone_does_not_see_later_changes() {
    let mut map = RangeMap::new();
    map.insert(pages(0, 100), mark(1));
    let before = map.clone();
    map.insert(pages(50, 60), mark(2));
    map.remove(pages(0, 10));
    assert_eq!(shown(&before), "0..100=1+0");
    assert_eq!(shown(&map), "10..50=1+10 50..60=2+0 60..100=1+60");
}

#[test]
fn runs_of_an_empty_range_are_none() {
    let mut map = RangeMap::new();
    map.insert(pages(0, 100), mark(1));
    assert_eq!(map.runs(pages(5, 5)).count(), 0);
}

#[derive(Debug, Clone)]
enum Change {
    Insert(u64, u64),
    Remove(u64, u64),
}

const SPACE: u64 = 300;

fn change() -> impl Strategy<Value = Change> {
    (0..SPACE, 0..40_u64, prop::bool::weighted(0.75)).prop_map(|(first, length, insert)| {
        let end = first + length;
        if insert {
            Change::Insert(first, end)
        } else {
            Change::Remove(first, end)
        }
    })
}

fn assert_agrees(map: &RangeMap<Mark>, model: &BTreeMap<u64, Mark>, window: Range<u64>) {
    let mut end = PageNumber(0);
    let mut covered = 0;
    for (range, _) in map.iter() {
        assert!(range.start >= end && range.end > range.start);
        covered += range.end.0 - range.start.0;
        end = range.end;
    }
    assert_eq!(covered as usize, model.len());
    for page in 0..SPACE + 50 {
        let got = map.get(PageNumber(page));
        assert_eq!(
            got.as_ref().map(|(_, mark)| *mark),
            model.get(&page).copied()
        );
        assert!(got.is_none_or(|(range, _)| range.start.0 == page && range.end.0 > page));
    }
    let mut next = window.start;
    for run in map.runs(pages(window.start, window.end)) {
        assert_eq!(run.first.0, next);
        assert!(run.pages > 0);
        for ahead in 0..run.pages {
            let expected = model.get(&(next + ahead)).copied();
            assert_eq!(run.value.map(|mark| mark.advance(ahead)), expected);
        }
        next = run.end().0;
    }
    assert_eq!(next, window.end);
}

proptest! {
    #[test]
    fn agrees_with_a_map_of_single_pages(
        changes in prop::collection::vec(change(), 1..80),
        first in 0..SPACE,
        length in 0..SPACE,
    ) {
        let mut map = RangeMap::new();
        let mut model = BTreeMap::new();
        let mut earlier = Vec::new();
        for (number, change) in (0_u32..).zip(changes) {
            if number % 16 == 0 {
                earlier.push((map.clone(), model.clone()));
            }
            match change {
                Change::Insert(first, end) => {
                    map.insert(pages(first, end), mark(number));
                    for page in first..end {
                        model.insert(page, mark(number).advance(page - first));
                    }
                }
                Change::Remove(first, end) => {
                    map.remove(pages(first, end));
                    model.retain(|page, _| !(first..end).contains(page));
                }
            }
        }
        for (map, model) in earlier.into_iter().chain([(map, model)]) {
            assert_agrees(&map, &model, first..first + length);
        }
    }
}

/// Prints the cost of random single-page insertions; `cargo test --release -- --ignored
/// --nocapture random_insertions`.
#[test]
#[ignore = "a measurement: meaningful in release only"]
fn time_of_random_insertions() {
    for space in [10_000_u64, 1_000_000] {
        let mut map = RangeMap::new();
        let mut state = 1_u64;
        let count = 2 * space;
        let start = std::time::Instant::now();
        for number in 0..count {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let page = (state >> 33) % space;
            map.insert(pages(page, page + 1), mark(number as u32));
        }
        let each = start.elapsed().as_nanos() / u128::from(count);
        println!(
            "{space} pages: {each} ns per insertion, {} ranges",
            map.len()
        );
    }
}
