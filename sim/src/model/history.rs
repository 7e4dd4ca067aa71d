//! Histories of an image: commits in order, and where one history left another.
//!
//! A takeover that gives up commits makes a new branch: the server that lost the image goes on for
//! a while on the old one, and its LSNs are given out again on the new one.

use std::collections::BTreeMap;

use mvps_core::ids::Lsn;

use super::content::{Content, Pages};

/// Names a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BranchId(usize);

/// One history since it left another.
#[derive(Debug, Default)]
pub struct Branch {
    parent: Option<(BranchId, Lsn)>,
    commits: BTreeMap<Lsn, Vec<u64>>,
    pages: BTreeMap<u64, BTreeMap<Lsn, Content>>,
    /// What it began with, if that is no other branch's.
    base: Pages,
    /// It did not go on where its parent was, but began with something else at this LSN.
    pub begins_at: Option<Lsn>,
    /// Every commit up to here was acknowledged, if it was a commit at all.
    pub acknowledged: Lsn,
    /// Up to here was promised to survive a power cut.
    pub durable: Lsn,
    /// Up to here was promised to survive the loss of the machine.
    pub durable_in_store: Lsn,
    /// Where commits after an LSN were lost, each time that some were.
    pub cuts: Vec<Lsn>,
    /// The highest LSN of any manifest of this branch that landed as the newest.
    pub landed: Lsn,
}

/// All histories of one image.
#[derive(Debug, Default)]
pub struct History {
    branches: Vec<Branch>,
}

impl History {
    /// A branch that begins with what `parent` is at an LSN; without one, with nothing.
    pub fn fork(&mut self, parent: Option<(BranchId, Lsn)>) -> BranchId {
        let base = parent.map_or(Lsn(0), |(_, lsn)| lsn);
        self.branches.push(Branch {
            parent,
            acknowledged: base,
            durable: base,
            durable_in_store: base,
            landed: base,
            ..Branch::default()
        });
        BranchId(self.branches.len() - 1)
    }

    /// A branch that begins at `at` with what `parent` was at an earlier LSN (a rollback), or with
    /// `base` (a clone, a new image).
    pub fn begin_anew(
        &mut self,
        parent: Option<(BranchId, Lsn)>,
        base: Pages,
        at: Lsn,
    ) -> BranchId {
        let id = self.fork(parent);
        let branch = self.branch_mut(id);
        branch.base = base;
        branch.begins_at = Some(at);
        (branch.acknowledged, branch.durable) = (at, at);
        (branch.durable_in_store, branch.landed) = (at, at);
        id
    }

    /// The branch of that name.
    #[must_use]
    pub fn branch(&self, id: BranchId) -> &Branch {
        &self.branches[id.0]
    }

    /// The branch of that name, to change it.
    pub fn branch_mut(&mut self, id: BranchId) -> &mut Branch {
        &mut self.branches[id.0]
    }

    /// Where the content at (`id`, `lsn`) was really committed: branches without commits up to
    /// there are the same history as their parent.
    #[must_use]
    pub fn canonical(&self, mut id: BranchId, mut lsn: Lsn) -> BranchId {
        loop {
            let branch = self.branch(id);
            let here = branch.commits.range(..=lsn).next().is_some();
            match branch.parent {
                Some((parent, at)) if !here && branch.begins_at.is_none() => {
                    lsn = lsn.min(at);
                    id = parent;
                }
                _ => return id,
            }
        }
    }

    /// The last commit in the history of (`id`, `lsn`), and the branch that it was made on.
    #[must_use]
    pub fn last_commit(&self, id: BranchId, lsn: Lsn) -> (BranchId, Option<Lsn>) {
        let made_on = self.canonical(id, lsn);
        let mut at = lsn;
        let mut on = id;
        while let Some((parent, left_at)) = self.branch(on).parent.filter(|_| on != made_on) {
            (on, at) = (parent, at.min(left_at));
        }
        let mut commits = self.branch(made_on).commits.range(..=at);
        (made_on, commits.next_back().map(|(lsn, _)| *lsn))
    }

    /// Whether the history of (`id`, `lsn`) has the commit `of` of the branch `wanted` in it.
    #[must_use]
    pub fn includes(&self, mut id: BranchId, mut lsn: Lsn, (wanted, of): (BranchId, Lsn)) -> bool {
        loop {
            let branch = self.branch(id);
            if id == wanted {
                return of <= lsn && branch.commits.contains_key(&of);
            }
            match branch.parent {
                Some((parent, at)) if branch.begins_at.is_none() => {
                    (id, lsn) = (parent, lsn.min(at));
                }
                _ => return false,
            }
        }
    }

    /// A commit happened.
    pub fn commit(&mut self, id: BranchId, lsn: Lsn, pages: &Pages) {
        let branch = self.branch_mut(id);
        branch.commits.insert(lsn, pages.keys().copied().collect());
        for (page, content) in pages {
            let versions = branch.pages.entry(*page).or_default();
            versions.insert(lsn, content.clone());
        }
    }

    /// Whether the commit at `lsn` changed exactly `pages`, to exactly that.
    #[must_use]
    pub fn is_commit(&self, id: BranchId, lsn: Lsn, pages: &Pages) -> bool {
        let branch = self.branch(id);
        branch.commits.get(&lsn).is_some_and(|changed| {
            changed.iter().eq(pages.keys())
                && pages
                    .iter()
                    .all(|(page, content)| branch.pages[page].get(&lsn) == Some(content))
        })
    }

    /// Commits after `lsn` are gone. Returns how many.
    pub fn truncate(&mut self, id: BranchId, lsn: Lsn) -> usize {
        let branch = self.branch_mut(id);
        let gone = branch.commits.split_off(&lsn.next());
        for versions in branch.pages.values_mut() {
            versions.split_off(&lsn.next());
        }
        branch.acknowledged = branch.acknowledged.min(lsn);
        branch.durable = branch.durable.min(lsn);
        if !gone.is_empty() {
            branch.cuts.push(lsn);
        }
        gone.len()
    }

    /// A page as of an LSN.
    #[must_use]
    pub fn page(&self, id: BranchId, lsn: Lsn, page: u64) -> Content {
        let branch = self.branch(id);
        let versions = branch.pages.get(&page);
        if let Some((_, content)) = versions.and_then(|them| them.range(..=lsn).next_back()) {
            return content.clone();
        }
        match branch.parent {
            Some((parent, at)) => self.page(parent, lsn.min(at), page),
            None => branch.base.get(&page).cloned().flatten(),
        }
    }

    /// Which operation order a reader may have met: `from`, and every commit after it up to `to`.
    #[must_use]
    pub fn positions(&self, id: BranchId, from: Lsn, to: Lsn) -> Vec<Lsn> {
        let commits = self
            .branch(id)
            .commits
            .range(from.next()..=to.max(from.next()));
        let later = commits.map(|(lsn, _)| *lsn).filter(|lsn| *lsn <= to);
        std::iter::once(from).chain(later).collect()
    }

    /// The last commit of the branch itself.
    #[must_use]
    pub fn last(&self, id: BranchId) -> Option<Lsn> {
        self.branch(id).commits.keys().next_back().copied()
    }
}
