//! Publishes what the collector decided about an image: which versions are forgotten, which pins
//! are released. Nothing is deleted because of it before it counts.
//!
//! Invariant: both decisions hold for whatever manifest they are published onto. Versions older
//! than one that may be forgotten may be forgotten; a pin that is not needed never is again.

use std::collections::BTreeSet;

use crate::env::{Clock, Entropy, EntropyExt};
use crate::format::manifest::{Manifest, PinHolder};
use crate::ids::{PublicationId, Version};
use crate::mutant;
use crate::protocol::{
    ManifestStore, OthersPart, Outcome, PublishError, PublishedBy, RuleBroken, compose_by_other,
    publish,
};

use super::pins::CloneId;

/// How many publications by others may come in between. Each is a checkpoint or an operator's that
/// landed within one request's time.
const ATTEMPTS_MAX: usize = 32;

/// What is to change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Amendment {
    /// Forget everything below this version.
    pub(super) oldest_retained: Option<Version>,
    /// Release the pins of these clones.
    pub(super) release: BTreeSet<CloneId>,
}

/// Why it was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AmendError {
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("what the collector wants to publish breaks a rule: {0}")]
    Rule(#[from] RuleBroken),
    #[error("others publish faster than the collector can")]
    Contended,
}

impl Amendment {
    /// The others' part of `base` with the amendment; `None` if it is in `base` already.
    fn applied_to(&self, base: &Manifest) -> Option<OthersPart> {
        let mut part = OthersPart::of(base);
        if let Some(oldest) = self.oldest_retained {
            // The publication itself may be all that is retained.
            part.oldest_retained = part.oldest_retained.max(oldest.min(base.version.next()));
        }
        part.pins.retain(|pin| match &pin.holder {
            PinHolder::Reader(_) => true,
            PinHolder::Clone { .. } => {
                CloneId::of(pin).is_none_or(|clone| !self.release.contains(&clone))
            }
        });
        (part != OthersPart::of(base)).then_some(part)
    }
}

/// What the newest manifest would be if the amendment were published, for a dry run.
pub(super) fn imagine(
    base: &Manifest,
    amendment: &Amendment,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Manifest, RuleBroken> {
    match amendment.applied_to(base) {
        None => Ok(base.clone()),
        Some(part) => compose_by_other(base, PublicationId(entropy.u128()), part, clock.wall()),
    }
}

/// Publishes the amendment, of whose image `newest` was the newest manifest, and returns the newest
/// one after that, which carries it.
pub(super) async fn amend(
    manifests: &ManifestStore,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    newest: Manifest,
    amendment: &Amendment,
) -> Result<Manifest, AmendError> {
    let mut base = newest;
    for _ in 0..ATTEMPTS_MAX {
        let Some(part) = amendment.applied_to(&base) else {
            return Ok(base);
        };
        let id = PublicationId(entropy.u128());
        let body = compose_by_other(&base, id, part, clock.wall())?;
        if mutant::is("collection deletes before expiry is published") {
            return Ok(body);
        }
        base = match publish(manifests, &body, PublishedBy::Other(id)).await? {
            Outcome::Counted(newest) => return Ok(newest),
            Outcome::Merge(newest) | Outcome::Fenced(newest) => newest,
        };
    }
    Err(AmendError::Contended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::manifest::example_manifest;

    #[test]
    fn what_is_there_already_is_not_published() {
        let base = example_manifest();
        let check = |oldest: Option<u64>, expected: Option<u64>| {
            let amendment = Amendment {
                oldest_retained: oldest.map(Version),
                ..Amendment::default()
            };
            let part = amendment.applied_to(&base);
            let applied = part.map(|part| part.oldest_retained.0);
            assert_eq!(applied, expected, "{oldest:?}");
        };
        check(None, None);
        check(Some(249), None);
        check(Some(250), None);
        check(Some(251), Some(251));
        check(Some(301), Some(301));
        // Decided by a newer manifest than this, as when a read was stale: never beyond itself.
        check(Some(400), Some(301));
    }

    #[test]
    fn only_the_named_clones_let_go() {
        let base = example_manifest();
        let clone = CloneId::of(&base.pins[1]).unwrap();
        let amendment = Amendment {
            oldest_retained: None,
            release: BTreeSet::from([clone.clone()]),
        };
        let part = amendment.applied_to(&base).unwrap();
        assert_eq!(part.pins, base.pins[..1]);
        assert_eq!(part.snapshots, base.snapshots);
        let another = CloneId {
            incarnation: crate::ids::Incarnation(8),
            ..clone
        };
        let amendment = Amendment {
            oldest_retained: None,
            release: BTreeSet::from([another]),
        };
        assert_eq!(amendment.applied_to(&base), None);
    }
}
