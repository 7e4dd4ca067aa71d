//! When a clone's pin may be released (docs/protocol.md §5.2). Pure.
//!
//! Invariant: an answer other than [`PinVerdict::Keep`] stays right whatever happens afterwards:
//! nothing comes back to objects that it does not hold, and a name that is taken stays taken.

use crate::format::manifest::{Manifest, Pin, PinHolder};
use crate::ids::{ImageId, Incarnation};
use crate::reachability::is_tombstone;

/// A clone that an image is pinned for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CloneId {
    /// Its name.
    pub target: ImageId,
    /// Its incarnation.
    pub incarnation: Incarnation,
}

impl CloneId {
    /// The clone that holds this pin; `None` if a reader does.
    #[must_use]
    pub fn of(pin: &Pin) -> Option<Self> {
        match &pin.holder {
            PinHolder::Reader(_) => None,
            PinHolder::Clone {
                target,
                incarnation,
            } => Some(Self {
                target: target.clone(),
                incarnation: *incarnation,
            }),
        }
    }
}

/// The clones that `newest` is pinned for, in order, each once.
#[must_use]
pub fn clones_of(newest: &Manifest) -> Vec<CloneId> {
    let mut clones: Vec<CloneId> = newest.pins.iter().filter_map(CloneId::of).collect();
    clones.sort();
    clones.dedup();
    clones
}

/// What becomes of the pins of a clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinVerdict {
    /// The clone, or what the name carries on from it, needs them.
    Keep,
    /// The clone needs nothing of the image any more, or can never appear.
    Release,
    /// The clone did not appear, but still may. Take its name first.
    Abandon,
}

/// What becomes of the pins of the clone with this incarnation. `newest` is the newest manifest
/// under its name; `shares` says whether anything that it retains, or pins for others, is of the
/// image that is pinned. (What a name carries on keeps the pins also if it is of another life.)
#[must_use]
pub fn judge_pin(incarnation: Incarnation, newest: Option<&Manifest>, shares: bool) -> PinVerdict {
    match newest {
        None => PinVerdict::Abandon,
        Some(_) if shares => PinVerdict::Keep,
        Some(newest) if newest.incarnation == incarnation => PinVerdict::Release,
        Some(newest) if is_tombstone(newest) => PinVerdict::Abandon,
        Some(_) => PinVerdict::Release,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::manifest::{ImageState, Pinned, example_manifest};

    #[test]
    fn each_case_of_the_protocol() {
        let (clone, other) = (Incarnation(1), Incarnation(2));
        let (keep, release, abandon) = (PinVerdict::Keep, PinVerdict::Release, PinVerdict::Abandon);
        for (life, state, shares, expected) in [
            (clone, ImageState::Active, true, keep),
            (clone, ImageState::Clean, true, keep),
            (clone, ImageState::Tombstone, true, keep),
            // (a) deleted, and nobody was cloned from it.
            (clone, ImageState::Tombstone, false, release),
            (clone, ImageState::Abandoned, false, release),
            // (b) it has rewritten everything.
            (clone, ImageState::Active, false, release),
            (clone, ImageState::Clean, false, release),
            // (c) somebody else lives there.
            (other, ImageState::Active, false, release),
            (other, ImageState::Clean, false, release),
            // (d) it never appeared.
            (other, ImageState::Tombstone, false, abandon),
            (other, ImageState::Abandoned, false, abandon),
            // Another life carries pins on for clones of the clone.
            (other, ImageState::Active, true, keep),
            (other, ImageState::Tombstone, true, keep),
        ] {
            let newest = Manifest {
                incarnation: life,
                state,
                ..example_manifest()
            };
            let verdict = judge_pin(clone, Some(&newest), shares);
            assert_eq!(verdict, expected, "{life} {state:?} {shares}");
        }
        assert_eq!(judge_pin(clone, None, false), abandon);
    }

    #[test]
    fn readers_are_nobodys_clones() {
        let mut newest = example_manifest();
        let clones = clones_of(&newest);
        assert_eq!(clones.len(), 1, "one reader, one clone: {clones:?}");
        let mut again = newest.pins[1].clone();
        again.pinned = Pinned::Version(newest.version);
        newest.pins.push(again);
        assert_eq!(clones_of(&newest), clones, "two pins of one clone");
    }
}
