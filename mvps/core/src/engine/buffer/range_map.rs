//! A map from disjoint page ranges to values: what is where, for runs of pages.
//!
//! Job: the buffer index and the overlay of the map are both "the newest value for every page", and
//! both must be cheap to clone, because every commit publishes a view of them. A clone shares its
//! nodes with the original; changing one copies the few nodes on the way to the change.
//!
//! Invariants: ranges are never empty and never overlap. A value belongs to the first page of its
//! range; the value of a later page is derived from it with [`Advance`], so cutting a range in two
//! needs nothing but the map itself.
//!
//! Must never: merge neighbours (two adjacent ranges may hold values that differ), await, or fail.

use std::ops::Range;

use imbl::OrdMap;

use crate::ids::PageNumber;

/// A value that stands for a run of pages and knows what stands for the rest of the run.
pub trait Advance: Clone {
    /// The value for the run that begins `pages` later.
    #[must_use]
    fn advance(&self, pages: u64) -> Self;
}

impl<V: Advance> Advance for Option<V> {
    fn advance(&self, pages: u64) -> Self {
        self.as_ref().map(|value| value.advance(pages))
    }
}

/// A run of pages that have one value, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run<V> {
    /// The first page.
    pub first: PageNumber,
    /// How many pages, at least 1.
    pub pages: u64,
    /// The value of the first page; `None` where nothing is known.
    pub value: Option<V>,
}

impl<V> Run<V> {
    /// The page after the last one.
    #[must_use]
    pub fn end(&self) -> PageNumber {
        PageNumber(self.first.0 + self.pages)
    }
}

/// One range: where it ends and the value of its first page. The map's key is where it begins.
#[derive(Debug, Clone)]
struct Stretch<V> {
    end: PageNumber,
    value: V,
}

/// A map from runs of pages to values. A clone is a snapshot that shares its nodes.
#[derive(Debug, Clone)]
pub struct RangeMap<V: Advance> {
    stretches: OrdMap<PageNumber, Stretch<V>>,
}

impl<V: Advance> Default for RangeMap<V> {
    fn default() -> Self {
        Self {
            stretches: OrdMap::new(),
        }
    }
}

impl<V: Advance> RangeMap<V> {
    /// A map without any range.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether no page has a value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stretches.is_empty()
    }

    /// How many ranges there are (not pages).
    #[must_use]
    pub fn len(&self) -> usize {
        self.stretches.len()
    }

    /// Gives all pages of `range` a value: the first page `value`, later ones what it advances to.
    /// What they had before is forgotten. An empty range changes nothing.
    pub fn insert(&mut self, range: Range<PageNumber>, value: V) {
        if range.is_empty() {
            return;
        }
        // The common cases, nothing there or exactly this range again, take one look-up and one
        // insertion.
        if let Some((first, last)) = self.last_overlap(&range)
            && !(first == range.start && last.end <= range.end)
        {
            self.clear_range(&range);
        }
        let end = range.end;
        self.stretches.insert(range.start, Stretch { end, value });
    }

    /// Takes the value of all pages of `range` away.
    pub fn remove(&mut self, range: Range<PageNumber>) {
        if !range.is_empty() && self.last_overlap(&range).is_some() {
            self.clear_range(&range);
        }
    }

    /// The value of `page`, and the range from `page` on that it stands for.
    #[must_use]
    pub fn get(&self, page: PageNumber) -> Option<(Range<PageNumber>, V)> {
        let (first, stretch) = self.stretches.get_prev(&page)?;
        (stretch.end > page).then(|| {
            let value = stretch.value.advance(page.0 - first.0);
            (page..stretch.end, value)
        })
    }

    /// `range` as runs in ascending order, with and without a value, without gaps: the runs'
    /// lengths add up to the range's.
    #[must_use]
    pub fn runs(&self, range: Range<PageNumber>) -> Runs<'_, V> {
        // The stretch that begins before the range and reaches into it is found by itself; the
        // others begin within the range.
        let into = if range.is_empty() {
            None
        } else {
            self.get(range.start)
        };
        let from = match &into {
            Some((covered, _)) => covered.end.min(range.end),
            None => range.start,
        };
        // Most look-ups are of a few pages that lie in one stretch: those need no iterator.
        let more = from < range.end && !self.is_empty();
        Runs {
            next: range.start,
            end: range.end.max(range.start),
            into,
            entries: more.then(|| self.stretches.range(from..range.end)),
            pending: None,
        }
    }

    /// All ranges with their values, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (Range<PageNumber>, &V)> {
        let ranges = self.stretches.iter();
        ranges.map(|(first, stretch)| (*first..stretch.end, &stretch.value))
    }

    /// The last range that overlaps `range`, which is not empty.
    fn last_overlap(&self, range: &Range<PageNumber>) -> Option<(PageNumber, &Stretch<V>)> {
        let last_page = PageNumber(range.end.0 - 1);
        let (first, stretch) = self.stretches.get_prev(&last_page)?;
        (stretch.end > range.start).then_some((*first, stretch))
    }

    /// Removes `range`, cutting the ranges at its two ends.
    fn clear_range(&mut self, range: &Range<PageNumber>) {
        if let Some((first, last)) = self.last_overlap(range)
            && last.end > range.end
        {
            let skipped = match crate::mutant::is("the rest of a range begins with its first page")
            {
                true => 0,
                false => range.end.0 - first.0,
            };
            let rest = Stretch {
                end: last.end,
                value: last.value.advance(skipped),
            };
            self.stretches.insert(range.end, rest);
        }
        let within = self.stretches.range(range.start..range.end);
        let inside: Vec<PageNumber> = within.map(|(first, _)| *first).collect();
        for first in inside {
            self.stretches.remove(&first);
        }
        if let Some((_, before)) = self.stretches.get_prev_mut(&range.start)
            && before.end > range.start
        {
            before.end = range.start;
        }
    }
}

type Entries<'a, V> =
    imbl::ordmap::RangedIter<'a, PageNumber, Stretch<V>, imbl::shared_ptr::DefaultSharedPtr>;

/// Iterator of [`RangeMap::runs`].
pub struct Runs<'a, V: Advance> {
    next: PageNumber,
    end: PageNumber,
    /// The rest of the range that was cut at the beginning.
    into: Option<(Range<PageNumber>, V)>,
    entries: Option<Entries<'a, V>>,
    /// A range that was found while a run without a value was returned before it.
    pending: Option<(PageNumber, &'a Stretch<V>)>,
}

impl<V: Advance> Runs<'_, V> {
    fn run_to(&mut self, end: PageNumber, value: Option<V>) -> Run<V> {
        let first = self.next;
        let end = end.min(self.end);
        self.next = end;
        Run {
            first,
            pages: end.0 - first.0,
            value,
        }
    }
}

impl<V: Advance> Iterator for Runs<'_, V> {
    type Item = Run<V>;

    fn next(&mut self) -> Option<Run<V>> {
        if self.next >= self.end {
            return None;
        }
        if let Some((range, value)) = self.into.take() {
            return Some(self.run_to(range.end, Some(value)));
        }
        if self.pending.is_none() {
            let entry = self.entries.as_mut().and_then(Iterator::next);
            self.pending = entry.map(|(first, stretch)| (*first, stretch));
        }
        Some(match self.pending {
            Some((first, stretch)) if first == self.next => {
                self.pending = None;
                self.run_to(stretch.end, Some(stretch.value.clone()))
            }
            Some((first, _)) => self.run_to(first, None),
            None => self.run_to(self.end, None),
        })
    }
}

#[cfg(test)]
mod tests;
