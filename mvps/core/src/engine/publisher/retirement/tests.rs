use proptest::prelude::*;

use super::*;
use crate::format::object_name::ObjectKind;
use crate::ids::{EpochNumber, ImageId, Incarnation, ObjectSequence};

fn object(number: u64) -> ObjectName {
    ObjectName {
        image: ImageId::parse("disk0").unwrap(),
        incarnation: Incarnation(1),
        epoch: EpochNumber(1),
        sequence: ObjectSequence(number),
        suffix: 0,
        kind: ObjectKind::Segment,
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// A view begins on the map that the task reads through.
    Open,
    /// One of the open views ends.
    Close(usize),
    /// A publication that no longer uses some of the objects (a bit each), and some new ones.
    Publish { dropped: u64, added: u64 },
    /// The task reads through the map of the last publication.
    Switch,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Open),
        3 => any::<usize>().prop_map(Step::Close),
        3 => (any::<u64>(), 0..3_u64)
            .prop_map(|(dropped, added)| Step::Publish { dropped, added }),
        2 => Just(Step::Switch),
    ]
}

/// A task, its views and its publications, with everything that a view reads spelled out.
struct World {
    retirement: Retirement,
    guard: Arc<MapGuard>,
    /// What the map reads that views are made with.
    current: BTreeSet<u64>,
    /// Open views: their guards, and what they read.
    views: Vec<(Arc<MapGuard>, BTreeSet<u64>)>,
    /// What the newest version uses.
    used: BTreeSet<u64>,
    /// The newest version's retired list.
    retired: BTreeSet<u64>,
    next: u64,
}

impl World {
    fn new() -> Self {
        let guard = Arc::new(MapGuard(1));
        Self {
            retirement: Retirement::new(&guard),
            guard,
            current: BTreeSet::new(),
            views: Vec::new(),
            used: BTreeSet::new(),
            retired: BTreeSet::new(),
            next: 0,
        }
    }

    fn listed(numbers: &BTreeSet<u64>) -> Vec<RetiredObject> {
        let objects = numbers.iter().map(|number| RetiredObject {
            name: object(*number),
        });
        objects.collect()
    }

    fn publish(&mut self, dropped: u64, added: u64) {
        let before = Self::listed(&self.retired);
        for gone in self.retirement.released(&before) {
            self.retired.remove(&gone.sequence.0);
        }
        let used = self.used.iter().copied().enumerate();
        let kept = used.filter(|(place, _)| dropped >> (place % 64) & 1 == 0);
        let kept: BTreeSet<u64> = kept.map(|(_, number)| number).collect();
        self.retired.extend(self.used.difference(&kept));
        self.used = kept;
        self.used.extend(self.next..self.next + added);
        self.next += added;
        let newest = Self::listed(&self.retired);
        self.retirement.note(&before, &newest);
    }

    fn switch(&mut self) {
        self.guard = Arc::new(MapGuard(self.guard.0 + 1));
        self.current = self.used.clone();
        self.retirement.reads_through(&self.guard);
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Open => self
                .views
                .push((Arc::clone(&self.guard), self.current.clone())),
            Step::Close(_) if self.views.is_empty() => {}
            Step::Close(which) => drop(self.views.swap_remove(which % self.views.len())),
            Step::Publish { dropped, added } => self.publish(*dropped, *added),
            Step::Switch => self.switch(),
        }
    }

    /// Everything that somebody reads, or may begin to read, is used or retired.
    fn check(&self) {
        let read = self.views.iter().map(|(_, objects)| objects);
        for objects in read.chain([&self.current]) {
            for number in objects {
                assert!(
                    self.used.contains(number) || self.retired.contains(number),
                    "{number} is read, and the collector may take it"
                );
            }
        }
        let number = self.guard.0;
        let earlier = self.views.iter().any(|(guard, _)| guard.0 < number);
        assert_eq!(self.retirement.reads_earlier_map(number), earlier);
    }
}

proptest! {
    #[test]
    fn what_a_view_reads_stays_listed_and_the_rest_goes(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
            world.check();
        }
        // Nobody reads an old map: the next publication lets all of it go.
        world.views.clear();
        world.switch();
        world.publish(0, 0);
        assert!(world.retired.is_empty(), "{:?}", world.retired);
    }
}
