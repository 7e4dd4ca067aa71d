//! Takes the name of a clone that did not appear, so that it never will (docs/protocol.md §5.2 d).
//!
//! Invariant: only a name that is free (no manifest, or a tombstone) is taken, and what the name
//! carries on, above all pins and the count of epochs and versions, goes on.

use crate::env::{Entropy, EntropyExt, WallTime};
use crate::format::manifest::{ImageState, Manifest, MapObjectId, SegmentId};
use crate::ids::{ImageId, Incarnation, Lsn, ObjectSequence, PageSize, Tenure, Version};
use crate::protocol::{
    FIRST_PUBLICATION, ManifestStore, Outcome, PublishError, PublishedBy, next_tenure, publish,
};
use crate::reachability::is_tombstone;

/// Composes the tombstone. `base` is the tombstone that is under the name, if there is one.
#[must_use]
pub fn compose_abandoned(
    base: Option<&Manifest>,
    target: &ImageId,
    page_size: PageSize,
    incarnation: Incarnation,
    tenure: Tenure,
    at: WallTime,
) -> Manifest {
    let version = base.map_or(Version(1), |base| base.version.next());
    Manifest {
        image: target.clone(),
        version,
        incarnation,
        tenure,
        state: ImageState::Abandoned,
        owner: String::new(),
        publication: FIRST_PUBLICATION,
        others: base.map_or_else(Vec::new, |base| base.others.clone()),
        published_at: at,
        page_size,
        size_bytes: 0,
        lsn: base.map_or(Lsn(0), |base| base.lsn),
        watermark: ObjectSequence(0),
        oldest_retained: version,
        next_segment: base.map_or(SegmentId(0), |base| base.next_segment),
        next_map: base.map_or(MapObjectId(0), |base| base.next_map),
        segments: Vec::new(),
        maps: Vec::new(),
        root: None,
        tail: Vec::new(),
        retired: Vec::new(),
        snapshots: Vec::new(),
        pins: base.map_or_else(Vec::new, |base| base.pins.clone()),
        takeovers: base.map_or_else(Vec::new, |base| base.takeovers.clone()),
        data_keys: Vec::new(),
    }
}

/// Takes the name `target`, of which `seen` was the newest manifest. `false` if somebody else was
/// faster: then look again.
///
/// # Errors
/// [`PublishError`]; the tombstone may stand or may land later, which harms nobody.
pub(super) async fn abandon(
    manifests: &ManifestStore,
    entropy: &dyn Entropy,
    target: &ImageId,
    seen: Option<&Manifest>,
    page_size: PageSize,
    at: WallTime,
) -> Result<bool, PublishError> {
    assert!(seen.is_none_or(is_tombstone), "the name is free");
    let tenure = next_tenure(seen, entropy);
    let incarnation = Incarnation(entropy.u128());
    let body = compose_abandoned(seen, target, page_size, incarnation, tenure, at);
    match publish(manifests, &body, PublishedBy::Server).await? {
        Outcome::Counted(_) => Ok(true),
        Outcome::Merge(_) | Outcome::Fenced(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::manifest::example_manifest;
    use crate::ids::{EpochNumber, TenureId};

    #[test]
    fn a_name_carries_on() {
        let base = Manifest {
            state: ImageState::Tombstone,
            ..example_manifest()
        };
        let tenure = Tenure {
            epoch: EpochNumber(4),
            id: TenureId(4),
        };
        let compose = |base| {
            compose_abandoned(
                base,
                &example_manifest().image,
                example_manifest().page_size,
                Incarnation(9),
                tenure,
                WallTime::default(),
            )
        };
        let next = compose(Some(&base));
        assert_eq!(next.validate(), Ok(()));
        assert_eq!(next.state, ImageState::Abandoned);
        assert_eq!(next.version, base.version.next());
        assert_eq!(next.pins, base.pins);
        assert_eq!(next.takeovers, base.takeovers);
        assert_eq!(next.others, base.others);
        assert_eq!(
            (next.lsn, next.next_segment, next.next_map),
            (base.lsn, base.next_segment, base.next_map)
        );
        let first = compose(None);
        assert_eq!(first.validate(), Ok(()));
        assert_eq!(first.version, Version(1));
    }
}
