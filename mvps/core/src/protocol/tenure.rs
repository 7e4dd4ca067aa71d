//! Whether the server may still acknowledge: the tenure check (protocol §3.8).
//!
//! A fenced server finds out by listing the newest manifest. It does so before it acknowledges
//! the first write or flush after [`TENURE_CONFIRMATION_LIMIT`] without confirmation; an idle
//! server sends nothing. A store that does not answer stops nobody (an outage must not stop
//! writes), but the server keeps asking.
//!
//! Invariant: once fenced, never again active.

use std::time::Duration;

use crate::env::{Moment, StoreError};
use crate::format::manifest::Manifest;
use crate::ids::{ImageId, Tenure, Version};
use crate::store::Patience;

use super::manifests::{ManifestError, ManifestStore};
use crate::mutant::is;

/// How long a server acknowledges writes on the strength of its last confirmation: the bound that
/// the documentation states for a fenced server. One LIST per ten seconds of use costs nothing.
pub const TENURE_CONFIRMATION_LIMIT: Duration = Duration::from_secs(10);

/// While the store does not answer, a server that is in use asks again this often.
pub const TENURE_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long a check waits for the store. A write that is to be acknowledged waits with it, once at
/// the beginning of an outage; a LIST that is going to be answered takes a fraction of this.
pub const TENURE_CHECK_PATIENCE: Duration = Duration::from_secs(3);

/// A check that takes longer than this has slept with its process: it is a listing, and if somebody
/// else published another one and a read, and each gives up after its patience.
const TENURE_CHECK_LASTS_MAX: Duration = TENURE_CHECK_PATIENCE.saturating_mul(2);

/// What a write or flush that is ready to be acknowledged has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Nothing: acknowledge.
    Acknowledge,
    /// Acknowledge, and start a check beside it: the store did not answer the last one.
    AcknowledgeAndCheck,
    /// A check: start one.
    CheckFirst,
    /// The check that is under way.
    AwaitCheck,
    /// It is never acknowledged: the tenure is over.
    Fenced,
}

/// What a check found, without its evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckOutcome {
    /// Still the active writer.
    Active,
    /// Another tenure has the image.
    Superseded,
    /// The store did not answer.
    Unreachable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Confirmed,
    /// The last check got no answer.
    Unreachable {
        asked_at: Moment,
    },
    Superseded,
}

/// Decides when to check; sends nothing itself.
#[derive(Debug, Clone)]
pub struct TenureCheck {
    limit: Duration,
    /// The tenure was active at this moment or later.
    confirmed_at: Moment,
    standing: Standing,
    /// When the check under way was started.
    under_way: Option<Moment>,
}

impl TenureCheck {
    /// A tenure that was confirmed at `confirmed_at`: the moment *before* the listing was sent.
    #[must_use]
    pub fn new(confirmed_at: Moment, limit: Duration) -> Self {
        Self {
            limit,
            confirmed_at,
            standing: Standing::Confirmed,
            under_way: None,
        }
    }

    /// What a request that is ready to be acknowledged at `now` waits for.
    #[must_use]
    pub fn gate(&self, now: Moment) -> Gate {
        let checking = self.under_way.is_some();
        let lasts = match is("a confirmation lasts half as long again") {
            true => self.limit * 3 / 2,
            false => self.limit,
        };
        match self.standing {
            Standing::Superseded => Gate::Fenced,
            Standing::Confirmed if now.since(self.confirmed_at) < lasts => Gate::Acknowledge,
            Standing::Confirmed if checking && is("who checks need not wait") => Gate::Acknowledge,
            Standing::Confirmed if checking => Gate::AwaitCheck,
            Standing::Confirmed => Gate::CheckFirst,
            // An answer as old as that says nothing about now: the store may long be back.
            Standing::Unreachable { asked_at }
                if now.since(asked_at) >= self.limit && !is("silence lasts for ever") =>
            {
                if checking {
                    Gate::AwaitCheck
                } else {
                    Gate::CheckFirst
                }
            }
            Standing::Unreachable { .. } if checking => Gate::Acknowledge,
            Standing::Unreachable { asked_at } if now.since(asked_at) < TENURE_RETRY_INTERVAL => {
                Gate::Acknowledge
            }
            Standing::Unreachable { .. } => Gate::AcknowledgeAndCheck,
        }
    }

    /// Whether a check is under way.
    #[must_use]
    pub fn is_checking(&self) -> bool {
        self.under_way.is_some()
    }

    /// A check is started at `now`; [`Self::finish`] ends it.
    pub fn start(&mut self, now: Moment) {
        self.under_way = Some(now);
    }

    /// The check under way ended at `now`; when it was started.
    pub fn finish(&mut self, outcome: CheckOutcome, now: Moment) -> Option<Moment> {
        let started_at = self.under_way.take();
        match outcome {
            CheckOutcome::Active => {
                if let Some(started_at) = started_at {
                    self.confirmed(started_at);
                }
            }
            CheckOutcome::Superseded => self.superseded(),
            CheckOutcome::Unreachable => {
                if self.standing != Standing::Superseded {
                    // Whoever slept in the middle of it asked before that, and not now.
                    let latest = started_at.map(|at| at.after(TENURE_CHECK_LASTS_MAX));
                    let latest = latest.filter(|_| !is("a check that slept has just ended"));
                    let asked_at = latest.map_or(now, |latest| now.min(latest));
                    self.standing = Standing::Unreachable { asked_at };
                }
            }
        }
        started_at
    }

    /// A counted publication, or any other listing sent at or after `at`, showed that
    /// the tenure is active.
    pub fn confirmed(&mut self, at: Moment) {
        // What was known before is no news: it must not make an outage look like silence.
        if self.standing == Standing::Superseded || at <= self.confirmed_at {
            return;
        }
        self.standing = Standing::Confirmed;
        self.confirmed_at = at;
    }

    /// A publication or check showed another tenure.
    pub fn superseded(&mut self) {
        self.standing = Standing::Superseded;
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenureFinding {
    /// The newest manifest is still the one that the server knows.
    Active,
    /// Still the active writer; others published this in between. It is the base of the next
    /// publication.
    ActiveWith(Box<Manifest>),
    /// Another tenure has the image.
    Superseded(Box<Manifest>),
    /// The image's manifests are gone: somebody deleted them by hand.
    Vanished,
    /// The store did not answer.
    Unreachable(StoreError),
    /// The newest manifest cannot be read. It is not this server's, which reads its own: whoever
    /// wrote it may be the active writer, so nothing is acknowledged on the strength of it.
    Unreadable(ManifestError),
}

impl TenureFinding {
    /// What it means for acknowledgements.
    #[must_use]
    pub fn outcome(&self) -> CheckOutcome {
        match self {
            Self::Active | Self::ActiveWith(_) => CheckOutcome::Active,
            Self::Unreachable(_) => CheckOutcome::Unreachable,
            Self::Superseded(_) | Self::Vanished | Self::Unreadable(_) => CheckOutcome::Superseded,
        }
    }
}

/// Lists the newest manifest (one request, sent once, as long as nobody else published) and says
/// whether `tenure`, whose newest known version is `known`, is the active writer. Answers within
/// about [`TENURE_CHECK_PATIENCE`], or twice that if somebody else published.
pub async fn check_tenure(
    manifests: &ManifestStore,
    image: &ImageId,
    tenure: Tenure,
    known: Version,
) -> TenureFinding {
    let manifests = manifests.with_patience(Patience::For(TENURE_CHECK_PATIENCE));
    match manifests.newest_version(image).await {
        Ok(Some(version)) if version == known => return TenureFinding::Active,
        Ok(Some(_)) => {}
        Ok(None) => return TenureFinding::Vanished,
        Err(ManifestError::Store(error)) => return TenureFinding::Unreachable(error),
        Err(error) => return TenureFinding::Unreadable(error),
    }
    match manifests.newest(image).await {
        Ok(Some(newest)) if newest.tenure == tenure || is("no epoch check") => {
            TenureFinding::ActiveWith(Box::new(newest))
        }
        Ok(Some(newest)) => TenureFinding::Superseded(Box::new(newest)),
        Ok(None) => TenureFinding::Vanished,
        Err(ManifestError::Store(error)) => TenureFinding::Unreachable(error),
        Err(error) => TenureFinding::Unreadable(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    #[test]
    fn a_confirmation_lasts_its_limit() {
        let check = TenureCheck::new(at(0), TENURE_CONFIRMATION_LIMIT);
        assert_eq!(check.gate(at(9)), Gate::Acknowledge);
        assert_eq!(check.gate(at(10)), Gate::CheckFirst);
    }

    #[test]
    fn a_check_confirms_the_moment_it_was_started_at() {
        let mut check = TenureCheck::new(at(0), TENURE_CONFIRMATION_LIMIT);
        check.start(at(12));
        assert_eq!(check.gate(at(13)), Gate::AwaitCheck);
        check.finish(CheckOutcome::Active, at(17));
        assert_eq!(check.gate(at(21)), Gate::Acknowledge);
        assert_eq!(check.gate(at(22)), Gate::CheckFirst);
    }

    #[test]
    fn an_unreachable_store_stops_nobody_and_is_asked_again_while_in_use() {
        let mut check = TenureCheck::new(at(0), TENURE_CONFIRMATION_LIMIT);
        check.start(at(10));
        check.finish(CheckOutcome::Unreachable, at(15));
        assert_eq!(check.gate(at(15)), Gate::Acknowledge);
        assert_eq!(check.gate(at(16)), Gate::AcknowledgeAndCheck);
        check.start(at(16));
        assert_eq!(check.gate(at(19)), Gate::Acknowledge);
        check.finish(CheckOutcome::Active, at(20));
        assert_eq!(check.gate(at(25)), Gate::Acknowledge);
        assert_eq!(check.gate(at(26)), Gate::CheckFirst);
    }

    #[test]
    fn an_old_confirmation_does_not_end_an_outage() {
        let mut check = TenureCheck::new(at(0), TENURE_CONFIRMATION_LIMIT);
        check.confirmed(at(2));
        check.start(at(13));
        check.finish(CheckOutcome::Unreachable, at(16));
        // A job that failed for want of the store repeats what an earlier one had found.
        check.confirmed(at(2));
        assert_eq!(check.gate(at(16)), Gate::Acknowledge);
        assert_eq!(check.gate(at(17)), Gate::AcknowledgeAndCheck);
        check.confirmed(at(14));
        assert_eq!(check.gate(at(25)), Gate::CheckFirst);
    }

    #[test]
    fn after_a_pause_an_unreachable_store_is_asked_before_anything_is_acknowledged() {
        let mut check = TenureCheck::new(at(0), TENURE_CONFIRMATION_LIMIT);
        check.start(at(10));
        check.finish(CheckOutcome::Unreachable, at(12));
        assert_eq!(check.gate(at(21)), Gate::AcknowledgeAndCheck);
        assert_eq!(check.gate(at(22)), Gate::CheckFirst);
        check.start(at(22));
        assert_eq!(check.gate(at(23)), Gate::AwaitCheck);
        check.finish(CheckOutcome::Unreachable, at(25));
        assert_eq!(check.gate(at(25)), Gate::Acknowledge);
    }

    /// The pause ends the check's patience, not the store's silence.
    #[test]
    fn a_check_that_slept_says_nothing_about_now() {
        let mut check = TenureCheck::new(at(0), TENURE_CONFIRMATION_LIMIT);
        check.start(at(10));
        check.finish(CheckOutcome::Unreachable, at(1000));
        assert_eq!(check.gate(at(1000)), Gate::CheckFirst);
        check.start(at(1000));
        assert_eq!(check.gate(at(1001)), Gate::AwaitCheck);
        check.finish(CheckOutcome::Unreachable, at(1006));
        assert_eq!(check.gate(at(1006)), Gate::Acknowledge);
    }

    #[test]
    fn fenced_is_for_ever() {
        let mut check = TenureCheck::new(at(0), TENURE_CONFIRMATION_LIMIT);
        check.start(at(1));
        check.finish(CheckOutcome::Superseded, at(2));
        check.confirmed(at(3));
        check.start(at(4));
        check.finish(CheckOutcome::Unreachable, at(5));
        check.start(at(6));
        check.finish(CheckOutcome::Active, at(7));
        assert_eq!(check.gate(at(3)), Gate::Fenced);
    }

    #[test]
    fn a_publication_confirms_too_and_never_backwards() {
        let mut check = TenureCheck::new(at(0), TENURE_CONFIRMATION_LIMIT);
        check.confirmed(at(8));
        check.confirmed(at(5));
        assert_eq!(check.gate(at(17)), Gate::Acknowledge);
        assert_eq!(check.gate(at(18)), Gate::CheckFirst);
    }
}
