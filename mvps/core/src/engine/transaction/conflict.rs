//! Which pages were committed since the oldest open transaction began.
//!
//! Commits are serializable by page: a transaction conflicts if a page that it read was committed
//! after its view (DESIGN.md §4). The window is kept only while a transaction is open, and across
//! checkpoints: that a generation was dropped must not make its commits forgotten.
//!
//! Must never: forget a commit that is newer than the oldest open view.

use std::ops::Range;

use crate::engine::buffer::{Advance, RangeMap};
use crate::ids::{Lsn, PageNumber};

impl Advance for Lsn {
    fn advance(&self, _pages: u64) -> Self {
        *self
    }
}

/// The commits that a transaction can conflict with.
#[derive(Debug, Default)]
pub struct ConflictWindow {
    newest: RangeMap<Lsn>,
}

impl ConflictWindow {
    /// Notes that `pages` were committed at `lsn`, whether written, trimmed or zeroed.
    pub fn committed(&mut self, pages: Range<PageNumber>, lsn: Lsn) {
        self.newest.insert(pages, lsn);
    }

    /// Whether a page of `reads` was committed after `view`.
    #[must_use]
    pub fn conflicts(&self, reads: &RangeMap<()>, view: Lsn) -> bool {
        reads.iter().any(|(pages, ())| {
            self.newest
                .runs(pages)
                .any(|run| run.value.is_some_and(|lsn| lsn > view))
        })
    }

    /// Forgets everything, when no transaction is open.
    pub fn clear(&mut self) {
        self.newest = RangeMap::new();
    }

    /// Forgets commits up to `oldest`, the oldest open view.
    pub fn prune(&mut self, oldest: Lsn) {
        let stale: Vec<_> = self
            .newest
            .iter()
            .filter(|(_, lsn)| **lsn <= oldest)
            .map(|(pages, _)| pages)
            .collect();
        for pages in stale {
            self.newest.remove(pages);
        }
    }

    /// How many ranges it remembers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.newest.len()
    }
}

impl Advance for () {
    fn advance(&self, _pages: u64) -> Self {}
}

#[cfg(test)]
#[expect(
    clippy::single_range_in_vec_init,
    reason = "a read set of one range is what is meant"
)]
mod tests {
    use super::*;

    fn pages(first: u64, end: u64) -> Range<PageNumber> {
        PageNumber(first)..PageNumber(end)
    }

    fn check(commits: &[(Range<u64>, u64)], reads: &[Range<u64>], view: u64, expected: bool) {
        let mut window = ConflictWindow::default();
        for (range, lsn) in commits {
            window.committed(pages(range.start, range.end), Lsn(*lsn));
        }
        let mut set = RangeMap::new();
        for range in reads {
            set.insert(pages(range.start, range.end), ());
        }
        assert_eq!(
            window.conflicts(&set, Lsn(view)),
            expected,
            "{commits:?} {reads:?} {view}"
        );
    }

    #[test]
    fn a_read_conflicts_with_a_later_commit_of_its_page_only() {
        check(&[], &[0..10], 0, false);
        check(&[(5..6, 3)], &[0..10], 2, true);
        check(&[(5..6, 3)], &[0..10], 3, false);
        check(&[(5..6, 3)], &[0..5, 6..9], 2, false);
        check(&[(0..100, 7)], &[50..51], 6, true);
        check(&[(0..100, 7), (50..51, 8)], &[50..51], 7, true);
        check(&[(0..100, 7), (50..51, 8)], &[49..50], 7, false);
        check(&[(0..1, 1)], &[], 0, false);
    }

    #[test]
    fn pruning_keeps_what_is_newer_than_the_oldest_view() {
        let mut window = ConflictWindow::default();
        window.committed(pages(0, 4), Lsn(1));
        window.committed(pages(2, 3), Lsn(2));
        window.prune(Lsn(1));
        assert_eq!(window.len(), 1);
        let mut reads = RangeMap::new();
        reads.insert(pages(2, 3), ());
        assert!(window.conflicts(&reads, Lsn(1)));
    }
}
