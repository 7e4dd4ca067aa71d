//! The protocol between writers, readers, operators and the collector, as one image's server sees
//! it: opening, publication, tenure (docs/protocol.md §§1–3 and the writer's part of §4).
//!
//! What is decided is decided purely ([`compose_publication`] and its siblings, [`judge`],
//! [`decide_opening`], [`TenureCheck`]); what is executed goes through [`ManifestStore`].
//!
//! Architecture invariants:
//! - Nothing here deletes an object, uploads a segment or looks at a clock for safety.
//! - A publication is believed only after the newest manifest was listed *after* it was created;
//!   that the create succeeded proves nothing, because the collector may have freed the name.

mod compose;
mod manifests;
mod opening;
mod opening_decision;
mod publication;
mod tenure;
#[cfg(test)]
pub(crate) mod tests;

pub use compose::{
    CloneTarget, FIRST_PUBLICATION, NewImage, OthersPart, Released, RuleBroken, WriterPart,
    compose_by_other, compose_clone, compose_create, compose_open, compose_publication,
    compose_resize, compose_rollback, compose_takeover, compose_tombstone, is_retained, leave_mark,
    next_tenure,
};
pub use manifests::{ManifestError, ManifestStore, Since};
pub(crate) use opening::{Activation, usable_keys};
pub use opening::{
    OPEN_ATTEMPTS_MAX, Opened, Opener, OpeningError, is_drained, open_image, own_publication,
    recovered_metadata,
};
pub use opening_decision::{
    BufferState, Decision, Intent, LastCheckpoint, OpeningRequest, Refusal, RefusalReason,
    decide_opening,
};
pub use publication::{Outcome, PublishError, PublishedBy, Verdict, judge, publish};
pub use tenure::{
    CheckOutcome, Gate, TENURE_CHECK_PATIENCE, TENURE_CONFIRMATION_LIMIT, TENURE_RETRY_INTERVAL,
    TenureCheck, TenureFinding, check_tenure,
};
