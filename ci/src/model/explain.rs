//! Whether an observed state is a prefix of a commit order that the history allows.
//!
//! The commit order is not observed, only bounded: an operation takes effect once, whole, after it
//! was issued and before it was acknowledged. The question is whether there is *any* order of all
//! operations that respects real time (acknowledged before issued means earlier), and *any* cut,
//! such that executing what lies before the cut gives exactly what was seen. With stamps in every
//! unit it can be decided without search:
//!
//! - *Included* is what must have survived, what is seen, and whatever was acknowledged before an
//!   included operation was issued. (One step closes it: real time is an interval order.) All the
//!   rest may lie behind the cut.
//! - Where unit `u` shows operation `o`, every other included operation on `u` comes before `o`.
//!   If real time says the opposite, an update was lost.
//! - These orders and real time together must have no cycle.
//!
//! A unit of zeroes does not say who zeroed it. If only one operation can have, it counts as seen;
//! if several, the rule is that one of them is possible: weaker, never wrong.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Effect, Fate, History, Instant, Operation, OperationId, Stamp, ZEROES};

/// Why no prefix explains what was seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A stamp that no operation wrote to this unit in this history.
    #[error("unit {unit} holds {stamp}, which nothing wrote there")]
    UnknownStamp {
        /// The unit.
        unit: u32,
        /// What it holds.
        stamp: Stamp,
    },
    /// An operation is seen that the server said did not happen.
    #[error("unit {unit} holds {stamp} of an operation that was refused or rolled back")]
    Undead {
        /// The unit.
        unit: u32,
        /// What it holds.
        stamp: Stamp,
    },
    /// An operation is seen that was issued too late to be part of this state.
    #[error("unit {unit} holds {stamp}, issued at {issued}, after the state's end at {end}")]
    FromTheFuture {
        /// The unit.
        unit: u32,
        /// What it holds.
        stamp: Stamp,
        /// When its operation was issued.
        issued: Instant,
        /// The end of the state.
        end: Instant,
    },
    /// A unit shows less than an operation that is part of the state.
    #[error("unit {unit} holds {stamp}, but {missing} is part of the state and comes later")]
    Lost {
        /// The unit.
        unit: u32,
        /// What it holds.
        stamp: Stamp,
        /// The stamp that is missing.
        missing: Stamp,
    },
    /// No single order explains all units.
    #[error("units contradict one another: no order explains the stamps {stamps:?}")]
    Mixture {
        /// Stamps of operations on a cycle.
        stamps: Vec<Stamp>,
    },
}

/// What a successful explanation says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explanation {
    /// Operations that are part of the state.
    pub included: usize,
    /// Operations that need not be.
    pub left_out: usize,
}

/// A history prepared for questions about states.
#[derive(Debug)]
pub struct Explainer<'a> {
    history: &'a History,
    by_stamp: BTreeMap<Stamp, OperationId>,
    by_unit: Vec<Vec<OperationId>>,
}

/// What one unit demands.
enum Shown {
    /// The state at the beginning of the round.
    Base,
    /// This operation.
    Operation(OperationId),
    /// Zeroes, from one of several operations.
    SomeZeroing,
}

impl<'a> Explainer<'a> {
    /// Prepares `history`.
    pub fn new(history: &'a History) -> Self {
        let mut by_stamp = BTreeMap::new();
        let mut by_unit = vec![Vec::new(); history.base().len()];
        for (index, operation) in history.operations().iter().enumerate() {
            by_stamp.insert(operation.stamp, OperationId(index));
            for unit in operation.effects.keys() {
                by_unit[*unit as usize].push(OperationId(index));
            }
        }
        Self {
            history,
            by_stamp,
            by_unit,
        }
    }

    fn operation(&self, id: OperationId) -> &Operation {
        &self.history.operations()[id.0]
    }

    /// Explains `seen` as a state that has all of `must` and nothing issued at or after `end`.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn explain(
        &self,
        seen: &[(u32, Stamp)],
        must: &[OperationId],
        end: Instant,
    ) -> Result<Explanation, Violation> {
        let mut included: BTreeSet<OperationId> = must.iter().copied().collect();
        for (unit, stamp) in seen {
            included.extend(self.author(*unit, *stamp, end)?);
        }
        loop {
            self.close(&mut included);
            let mut orders = Vec::new();
            let before = included.len();
            for (unit, stamp) in seen {
                let shown = self.shown(*unit, *stamp, &mut included, end)?;
                self.order(*unit, *stamp, &shown, &included, &mut orders)?;
            }
            if included.len() == before {
                self.acyclic(&included, &orders)?;
                return Ok(Explanation {
                    included: included.len(),
                    left_out: self.history.operations().len() - included.len(),
                });
            }
        }
    }

    /// The operation that wrote what a unit shows; none for zeroes and for the base.
    fn author(
        &self,
        unit: u32,
        stamp: Stamp,
        end: Instant,
    ) -> Result<Option<OperationId>, Violation> {
        if stamp == ZEROES || stamp == self.history.base()[unit as usize] {
            return Ok(None);
        }
        let Some(id) = self.by_stamp.get(&stamp).copied() else {
            return Err(Violation::UnknownStamp { unit, stamp });
        };
        let operation = self.operation(id);
        if operation.effects.get(&unit) != Some(&Effect::Written) {
            return Err(Violation::UnknownStamp { unit, stamp });
        }
        if operation.fate == Fate::Never {
            return Err(Violation::Undead { unit, stamp });
        }
        if operation.issued >= end {
            let issued = operation.issued;
            return Err(Violation::FromTheFuture {
                unit,
                stamp,
                issued,
                end,
            });
        }
        Ok(Some(id))
    }

    /// Adds whatever was acknowledged before an included operation was issued.
    fn close(&self, included: &mut BTreeSet<OperationId>) {
        let latest = included.iter().map(|id| self.operation(*id).issued).max();
        let latest = latest.unwrap_or(0);
        included.extend(self.history.acknowledged_before(latest));
    }

    /// What the unit shows. A zeroing that is the only possible one becomes included.
    fn shown(
        &self,
        unit: u32,
        stamp: Stamp,
        included: &mut BTreeSet<OperationId>,
        end: Instant,
    ) -> Result<Shown, Violation> {
        if stamp != ZEROES {
            let author = self.author(unit, stamp, end)?;
            return Ok(author.map_or(Shown::Base, Shown::Operation));
        }
        let on_unit = &self.by_unit[unit as usize];
        let effect = |id: &OperationId| self.operation(*id).effects[&unit];
        let written: Vec<OperationId> = on_unit
            .iter()
            .filter(|id| included.contains(id) && effect(id) == Effect::Written)
            .copied()
            .collect();
        if written.is_empty() && self.history.base()[unit as usize] == ZEROES {
            return Ok(Shown::SomeZeroing);
        }
        let possible: Vec<OperationId> = on_unit
            .iter()
            .filter(|id| {
                let zeroing = self.operation(**id);
                let too_early =
                    |writer: &OperationId| zeroing.acknowledged() < self.operation(*writer).issued;
                effect(id) == Effect::Zeroed
                    && zeroing.fate != Fate::Never
                    && zeroing.issued < end
                    && !written.iter().any(too_early)
            })
            .copied()
            .collect();
        match possible.as_slice() {
            [] => {
                let base = self.history.base()[unit as usize];
                let missing = written.last().map_or(base, |id| self.operation(*id).stamp);
                Err(Violation::Lost {
                    unit,
                    stamp,
                    missing,
                })
            }
            [only] => {
                included.insert(*only);
                Ok(Shown::Operation(*only))
            }
            _ => Ok(Shown::SomeZeroing),
        }
    }

    /// Everything included on the unit comes before what it shows.
    fn order(
        &self,
        unit: u32,
        stamp: Stamp,
        shown: &Shown,
        included: &BTreeSet<OperationId>,
        orders: &mut Vec<(OperationId, OperationId)>,
    ) -> Result<(), Violation> {
        let others = self.by_unit[unit as usize].iter();
        for other in others.filter(|id| included.contains(id)) {
            let missing = self.operation(*other).stamp;
            let lost = Violation::Lost {
                unit,
                stamp,
                missing,
            };
            match shown {
                Shown::SomeZeroing => {}
                Shown::Base => return Err(lost),
                Shown::Operation(shown) if shown == other => {}
                Shown::Operation(shown) => {
                    let shown_done = self.operation(*shown).acknowledged();
                    if shown_done < self.operation(*other).issued {
                        return Err(lost);
                    }
                    orders.push((*other, *shown));
                }
            }
        }
        Ok(())
    }

    /// Whether the found orders and real time go together: repeatedly removes an operation that
    /// nothing remaining precedes. Real time is a chain of instants, not pairs of operations.
    fn acyclic(
        &self,
        included: &BTreeSet<OperationId>,
        orders: &[(OperationId, OperationId)],
    ) -> Result<(), Violation> {
        let mut successors: BTreeMap<OperationId, Vec<OperationId>> = BTreeMap::new();
        let mut predecessors: BTreeMap<OperationId, usize> = BTreeMap::new();
        for (earlier, later) in orders.iter().collect::<BTreeSet<_>>() {
            successors.entry(*earlier).or_default().push(*later);
            *predecessors.entry(*later).or_default() += 1;
        }
        // An operation may go when no remaining one was acknowledged before it was issued: when it
        // was issued before the earliest acknowledgement among those that remain.
        let mut acknowledgements: BTreeSet<(Instant, OperationId)> = included
            .iter()
            .map(|id| (self.operation(*id).acknowledged(), *id))
            .collect();
        let mut ready: BTreeSet<(Instant, OperationId)> = included
            .iter()
            .filter(|id| !predecessors.contains_key(id))
            .map(|id| (self.operation(*id).issued, *id))
            .collect();
        while let Some((issued, id)) = ready.pop_first() {
            let (earliest, _) = *acknowledgements.first().expect("has at least this one");
            if earliest < issued {
                break;
            }
            acknowledgements.remove(&(self.operation(id).acknowledged(), id));
            for later in successors.remove(&id).unwrap_or_default() {
                let count = predecessors.get_mut(&later).expect("counted above");
                *count -= 1;
                if *count == 0 {
                    ready.insert((self.operation(later).issued, later));
                }
            }
        }
        if acknowledgements.is_empty() {
            return Ok(());
        }
        let remaining = acknowledgements.iter().take(8);
        let stamps = remaining.map(|(_, id)| self.operation(*id).stamp).collect();
        Err(Violation::Mixture { stamps })
    }

    /// Checks that no committed transaction overlooked a write: between what it read and its
    /// commit nothing may have been acknowledged on the same unit.
    ///
    /// # Errors
    /// The first write that was overlooked.
    pub fn serializable(&self) -> Result<usize, Violation> {
        let mut checked = 0;
        for transaction in self.history.operations() {
            if !matches!(transaction.fate, Fate::Acknowledged(_)) {
                continue;
            }
            for (unit, stamp) in &transaction.reads {
                checked += 1;
                self.overlooked(transaction, *unit, *stamp)?;
            }
        }
        Ok(checked)
    }

    fn overlooked(&self, reader: &Operation, unit: u32, stamp: Stamp) -> Result<(), Violation> {
        let is_base = stamp == self.history.base()[unit as usize];
        let read_from = self.by_stamp.get(&stamp).map(|id| self.operation(*id));
        let on_unit = self.by_unit[unit as usize].iter();
        let on_unit = || on_unit.clone().map(|id| self.operation(*id));
        let zeroed = on_unit().any(|other| other.effects[&unit] == Effect::Zeroed);
        let since = match read_from {
            Some(operation) => operation.acknowledged(),
            // Zeroes do not say when they came, if anything zeroed the unit in this round.
            None if stamp == ZEROES && zeroed => return Ok(()),
            None if is_base => 0,
            None => return Err(Violation::UnknownStamp { unit, stamp }),
        };
        let overlooks = |other: &&Operation| {
            other.stamp != reader.stamp
                && other.issued > since
                && other.acknowledged() < reader.issued
        };
        match on_unit().find(overlooks) {
            None => Ok(()),
            Some(other) => Err(Violation::Lost {
                unit,
                stamp,
                missing: other.stamp,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
