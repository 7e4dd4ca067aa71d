//! What the load did to an image: every operation with the instants at which it was issued and
//! acknowledged, and what is known to be durable.
//!
//! The image is seen as units of 1 KiB, a quarter of the smallest page, so that partial pages are
//! part of the model. Every written unit carries the stamp of its operation; an instant is a tick
//! of one logical clock, so that "acknowledged before issued" is exact.

use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of one unit.
pub const UNIT_BYTES: u64 = 1024;

/// What a unit holds: the stamp of the operation that wrote it, or [`ZEROES`].
pub type Stamp = u64;

/// A unit that was never written, or trimmed, or zeroed.
pub const ZEROES: Stamp = 0;

/// A tick of the logical clock.
pub type Instant = u64;

/// An operation of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub usize);

/// What an operation does to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Its stamp is there.
    Written,
    /// Zeroes are there.
    Zeroed,
}

/// What is known of an operation's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// No answer: it may have happened or not, but not in part.
    Unknown,
    /// It happened, and its answer arrived at this instant.
    Acknowledged(Instant),
    /// It did not happen: a conflict, a rollback, an overwritten draft inside a transaction.
    Never,
}

/// One write, trim, zeroing or transaction: atomic, at one point of the commit order.
#[derive(Debug, Clone)]
pub struct Operation {
    /// What it wrote.
    pub stamp: Stamp,
    /// Before this it cannot have taken effect.
    pub issued: Instant,
    /// Its outcome.
    pub fate: Fate,
    /// Whether its acknowledgement promised durability (FUA).
    pub forced: bool,
    /// What it does, unit by unit.
    pub effects: BTreeMap<u32, Effect>,
    /// What a transaction read before it committed.
    pub reads: Vec<(u32, Stamp)>,
}

impl Operation {
    /// When it was acknowledged; later than everything if it was not.
    pub fn acknowledged(&self) -> Instant {
        match self.fate {
            Fate::Acknowledged(instant) => instant,
            Fate::Unknown | Fate::Never => Instant::MAX,
        }
    }
}

/// What a read saw: a state of these units at an instant between the two.
#[derive(Debug, Clone)]
pub struct Read {
    /// When it was issued.
    pub issued: Instant,
    /// When its answer arrived.
    pub answered: Instant,
    /// What it saw.
    pub seen: Vec<(u32, Stamp)>,
}

/// What must have survived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survives {
    /// Everything acknowledged: a mere process kill.
    Acknowledged,
    /// Everything acknowledged before a flush, a FUA request or a FUA commit was issued that was
    /// acknowledged in its turn, and what was forced itself.
    Flushed,
    /// Everything acknowledged before a completed checkpoint was asked for.
    Checkpointed,
}

/// One round of load on one image.
#[derive(Debug, Clone)]
pub struct History {
    base: Vec<Stamp>,
    operations: Vec<Operation>,
    reads: Vec<Read>,
    clock: Instant,
    next_stamp: Stamp,
    flushed_until: Instant,
    checkpointed_until: Instant,
}

impl History {
    /// A round that starts from `base`, stamping from `next_stamp` on, which no unit holds yet.
    pub fn new(base: Vec<Stamp>, next_stamp: Stamp) -> Self {
        Self {
            base,
            operations: Vec::new(),
            reads: Vec::new(),
            clock: 1,
            next_stamp,
            flushed_until: 0,
            checkpointed_until: 0,
        }
    }

    /// The state at the beginning of the round.
    pub fn base(&self) -> &[Stamp] {
        &self.base
    }

    /// Every operation, in the order in which they were issued.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Every recorded read.
    pub fn reads(&self) -> &[Read] {
        &self.reads
    }

    /// The stamp after every one that was used.
    pub fn next_stamp(&self) -> Stamp {
        self.next_stamp
    }

    /// A new instant.
    pub fn tick(&mut self) -> Instant {
        self.clock += 1;
        self.clock
    }

    /// A stamp that nobody used.
    pub fn new_stamp(&mut self) -> Stamp {
        self.next_stamp += 1;
        self.next_stamp - 1
    }

    /// An operation with this stamp is about to be sent.
    pub fn issue(&mut self, stamp: Stamp, effects: BTreeMap<u32, Effect>) -> OperationId {
        let issued = self.tick();
        self.operations.push(Operation {
            stamp,
            issued,
            fate: Fate::Unknown,
            forced: false,
            effects,
            reads: Vec::new(),
        });
        OperationId(self.operations.len() - 1)
    }

    /// A request of `range` with a new stamp is about to be sent.
    pub fn issue_range(&mut self, range: Range<u32>, effect: Effect) -> (OperationId, Stamp) {
        let stamp = self.new_stamp();
        let effects = range.map(|unit| (unit, effect)).collect();
        (self.issue(stamp, effects), stamp)
    }

    /// The operation succeeded; `forced` if it asked for durability.
    pub fn acknowledge(&mut self, id: OperationId, forced: bool) {
        let now = self.tick();
        let operation = &mut self.operations[id.0];
        operation.fate = Fate::Acknowledged(now);
        operation.forced = forced;
        if forced {
            self.flushed_until = self.flushed_until.max(operation.issued);
        }
    }

    /// The server said that the operation did not happen.
    pub fn never(&mut self, id: OperationId) {
        self.operations[id.0].fate = Fate::Never;
    }

    /// What the transaction read before its commit.
    pub fn has_read(&mut self, id: OperationId, reads: Vec<(u32, Stamp)>) {
        self.operations[id.0].reads = reads;
    }

    /// A flush that was issued at `issued` succeeded.
    pub fn flushed(&mut self, issued: Instant) {
        self.flushed_until = self.flushed_until.max(issued);
    }

    /// A checkpoint that was asked for at `asked` was published.
    pub fn checkpointed(&mut self, asked: Instant) {
        self.checkpointed_until = self.checkpointed_until.max(asked);
    }

    /// A read was answered.
    pub fn saw(&mut self, issued: Instant, seen: Vec<(u32, Stamp)>) {
        let answered = self.tick();
        self.reads.push(Read {
            issued,
            answered,
            seen,
        });
    }

    /// The operations that must be part of a state that keeps what `survives` says.
    pub fn survivors(&self, survives: Survives) -> Vec<OperationId> {
        let must = |operation: &Operation| {
            let acknowledged = operation.acknowledged();
            match survives {
                Survives::Acknowledged => acknowledged != Instant::MAX,
                Survives::Flushed => {
                    acknowledged < self.flushed_until
                        || (operation.forced && acknowledged != Instant::MAX)
                }
                Survives::Checkpointed => acknowledged < self.checkpointed_until,
            }
        };
        self.select(must)
    }

    /// The operations that were acknowledged before `instant`.
    pub fn acknowledged_before(&self, instant: Instant) -> Vec<OperationId> {
        self.select(|operation| operation.acknowledged() < instant)
    }

    fn select(&self, chosen: impl Fn(&Operation) -> bool) -> Vec<OperationId> {
        let numbered = self.operations.iter().enumerate();
        let chosen = numbered.filter(|(_, operation)| chosen(operation));
        chosen.map(|(index, _)| OperationId(index)).collect()
    }
}
