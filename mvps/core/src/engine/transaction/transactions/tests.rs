use std::ops::Range;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::engine::read::MapGuard;
use crate::engine::read::test_world::TestWorld;
use crate::ids::PageNumber;

const SPACE: u64 = 40;

#[derive(Debug, Clone)]
enum Step {
    Begin,
    /// A transaction reads some pages.
    Read(usize, Range<u64>),
    /// Pages are committed, by a plain write or by a transaction.
    Commit(Option<usize>, Range<u64>),
    /// A transaction takes the lock, if it may.
    Lock(usize),
    End(usize),
    /// The oldest generation was published.
    Checkpoint,
}

fn pages() -> impl Strategy<Value = Range<u64>> {
    (0..SPACE, 1..6_u64).prop_map(|(first, count)| first..first + count)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Begin),
        4 => (any::<usize>(), pages()).prop_map(|(which, pages)| Step::Read(which, pages)),
        6 => pages().prop_map(|pages| Step::Commit(None, pages)),
        2 => (any::<usize>(), pages()).prop_map(|(which, pages)| Step::Commit(Some(which), pages)),
        1 => any::<usize>().prop_map(Step::Lock),
        1 => any::<usize>().prop_map(Step::End),
        1 => Just(Step::Checkpoint),
    ]
}

/// A transaction as the model knows it.
struct Known {
    id: TransactionId,
    view: u64,
    reads: Vec<Range<u64>>,
    pinned: Arc<Pinned>,
}

/// Every commit that there ever was, beside the transactions of the engine.
struct Model {
    transactions: Transactions,
    ranges_max: usize,
    base: View,
    commits: Vec<Range<u64>>,
    open: Vec<Known>,
    locked: Option<TransactionId>,
}

fn range_of(pages: &Range<u64>) -> Range<PageNumber> {
    PageNumber(pages.start)..PageNumber(pages.end)
}

impl Model {
    fn new(ranges_max: usize) -> Self {
        let world = TestWorld::new();
        let base = View {
            lsn: Lsn(0),
            size_bytes: 1 << 30,
            page_size: world.settings.page_size,
            generations: Vec::new(),
            map: world.map.clone(),
            guard: Arc::new(MapGuard(1)),
            frames: Arc::new(world.cold_reader()),
        };
        Self {
            transactions: Transactions::new(ranges_max),
            ranges_max,
            base,
            commits: Vec::new(),
            open: Vec::new(),
            locked: None,
        }
    }

    fn view(&self) -> Arc<View> {
        let lsn = Lsn(self.commits.len() as u64);
        let view = self.base.clone();
        Arc::new(View { lsn, ..view })
    }

    fn reads(known: &Known) -> RangeMap<()> {
        let mut reads = RangeMap::new();
        for pages in &known.reads {
            reads.insert(range_of(pages), ());
        }
        reads
    }

    /// Whether something that it read was committed after its view: commit `n` has LSN `n + 1`.
    fn conflicts(&self, known: &Known) -> bool {
        let later = self
            .commits
            .iter()
            .zip(1..)
            .filter(|(_, lsn)| *lsn > known.view);
        let meets = |commit: &Range<u64>, read: &Range<u64>| {
            commit.start < read.end && read.start < commit.end
        };
        let mut later = later.map(|(commit, _)| commit);
        later.any(|commit| known.reads.iter().any(|read| meets(commit, read)))
    }

    fn chosen(&self, which: usize) -> Option<usize> {
        let count = self.open.len();
        (count > 0).then(|| which % count)
    }

    fn forget(&mut self, place: usize) {
        let known = self.open.swap_remove(place);
        if self.locked == Some(known.id) {
            self.locked = None;
        }
    }

    fn take(&mut self, step: Step) {
        let now = Moment(Duration::ZERO);
        match step {
            Step::Begin => {
                let config = EngineConfig::default();
                let begun = self
                    .transactions
                    .begin(Origin::default(), self.view(), now, &config);
                let (id, pinned) = begun.expect("few are open");
                let (view, reads) = (self.commits.len() as u64, Vec::new());
                self.open.push(Known {
                    id,
                    view,
                    reads,
                    pinned,
                });
            }
            Step::Read(which, pages) => {
                if let Some(place) = self.chosen(which) {
                    self.open[place].reads.push(pages);
                }
            }
            Step::Commit(None, _) if self.locked.is_some() => {}
            Step::Commit(None, pages) => self.commit(pages),
            Step::Commit(Some(which), pages) => {
                let Some(place) = self.chosen(which) else {
                    return;
                };
                let id = self.open[place].id;
                if self.locked.is_some_and(|holder| holder != id) {
                    return;
                }
                let is_conflict = self.conflicts(&self.open[place]);
                self.transactions.end(id);
                self.forget(place);
                if !is_conflict {
                    self.commit(pages);
                }
            }
            Step::Lock(which) => {
                let Some(place) = self.chosen(which) else {
                    return;
                };
                if self.locked.is_some() || self.conflicts(&self.open[place]) {
                    return;
                }
                let (id, view) = (self.open[place].id, self.view());
                self.transactions.grant(id, view, now);
                self.open[place].view = self.commits.len() as u64;
                self.locked = Some(id);
            }
            Step::End(which) => {
                if let Some(place) = self.chosen(which) {
                    self.transactions.end(self.open[place].id);
                    self.forget(place);
                }
            }
            Step::Checkpoint => self.transactions.checkpointed(),
        }
    }

    fn commit(&mut self, pages: Range<u64>) {
        self.commits.push(pages.clone());
        let lsn = Lsn(self.commits.len() as u64);
        self.transactions.committed(range_of(&pages), lsn);
        // Aborted are those with the oldest views, and only if so much was committed since: a
        // commit adds a range and cuts one in two at most.
        let mut gone = Vec::new();
        for (place, known) in self.open.iter().enumerate() {
            if self.transactions.is_open(known.id) {
                continue;
            }
            let since = self.commits.len() - known.view as usize;
            assert!(2 * since > self.ranges_max, "aborted after {since} commits");
            let older = self.open.iter().filter(|other| other.view < known.view);
            for other in older {
                assert!(!self.transactions.is_open(other.id), "an older one goes on");
            }
            assert!(known.pinned.view().is_err(), "it keeps its view");
            gone.push(place);
        }
        for place in gone.into_iter().rev() {
            self.forget(place);
        }
    }

    fn check(&self) {
        assert!(self.transactions.window.len() <= self.ranges_max);
        assert_eq!(self.transactions.len(), self.open.len());
        assert_eq!(
            self.transactions.is_locked_against(None),
            self.locked.is_some()
        );
        for known in &self.open {
            let found = self.transactions.check(known.id, &Self::reads(known));
            let expected = match self.conflicts(known) {
                true => Err(EngineError::Conflict),
                false => Ok(()),
            };
            assert_eq!(found, expected, "{:?} reads {:?}", known.id, known.reads);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn conflicts_are_those_of_all_commits_however_small_the_window(
        ranges_max in prop_oneof![0..6_usize, Just(1 << 20)],
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.unwrap();
        let _entered = runtime.enter();
        let mut model = Model::new(ranges_max);
        for step in steps {
            model.take(step);
            model.check();
        }
    }
}
