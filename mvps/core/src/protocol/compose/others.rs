//! Publications within a tenure by those who do not hold it: operators, readers, the collector.
//!
//! Invariant: the writer's part and its counter stay as they are; the publisher leaves a mark by
//! which it recognises its publication.

use super::{RuleBroken, keep_last, successor};
use crate::encryption::WrappedDataKey;
use crate::env::WallTime;
use crate::format::manifest::{Manifest, OTHERS_MAX, Pin, Snapshot};
use crate::ids::{PublicationId, Version};

/// What everybody but the tenure's server decides about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OthersPart {
    /// Versions below this one are forgotten.
    pub oldest_retained: Version,
    /// Named versions, ascending by name.
    pub snapshots: Vec<Snapshot>,
    /// Pins.
    pub pins: Vec<Pin>,
    /// Data keys: the same ones always, whatever they are wrapped with.
    pub data_keys: Vec<WrappedDataKey>,
}

impl OthersPart {
    /// The others' part of `base`, to be changed and published.
    #[must_use]
    pub fn of(base: &Manifest) -> Self {
        Self {
            oldest_retained: base.oldest_retained,
            snapshots: base.snapshots.clone(),
            pins: base.pins.clone(),
            data_keys: base.data_keys.clone(),
        }
    }
}

/// Composes a publication within the tenure by a process that does not hold it: the others' part
/// is replaced, the writer's part and its counter are kept, and `id` is left as a mark by which
/// the publisher recognises its publication.
///
/// # Errors
/// [`RuleBroken`] if the result must not be published.
pub fn compose_by_other(
    base: &Manifest,
    id: PublicationId,
    part: OthersPart,
    at: WallTime,
) -> Result<Manifest, RuleBroken> {
    if part.oldest_retained < base.oldest_retained {
        return Err(RuleBroken::WentBack {
            what: "the oldest retained version",
            from: base.oldest_retained.0,
            to: part.oldest_retained.0,
        });
    }
    let sealed = |key: &WrappedDataKey| (key.image.clone(), key.incarnation);
    if !part
        .data_keys
        .iter()
        .map(sealed)
        .eq(base.data_keys.iter().map(sealed))
    {
        return Err(RuleBroken::OtherDataKeys {
            version: base.version,
        });
    }
    let mut next = successor(base, at);
    if crate::mutant::is("others clear the retired list") {
        next.retired.clear();
    }
    next.oldest_retained = part.oldest_retained;
    next.snapshots = part.snapshots;
    next.snapshots
        .sort_by(|left, right| left.name.cmp(&right.name));
    next.pins = part.pins;
    next.data_keys = part.data_keys;
    leave_mark(&mut next, id);
    next.validate()?;
    Ok(next)
}

/// Leaves `id` in `next` as the mark by which its publisher recognises it, however many others
/// publish on top of it.
pub fn leave_mark(next: &mut Manifest, id: PublicationId) {
    next.others.push(id);
    keep_last(&mut next.others, OTHERS_MAX);
}
