//! What a collector may forget, and what a snapshot must contain.

use mvps_core::collector::expiry::ExpiryPolicy;
use mvps_core::env::WallTime;
use mvps_core::format::manifest::{ImageState, Manifest};
use mvps_core::ids::{Lsn, Version};

use super::history::BranchId;
use super::state::{Model, State};

impl Model {
    /// The collector `client` keeps at least what `policy` says. Two passes of one process may each
    /// have their own: then what both keep is kept.
    pub fn collects_by(&self, client: &str, policy: ExpiryPolicy) {
        let mut state = self.state();
        let known = state.policies.entry(client.to_owned()).or_insert(policy);
        known.inactive = known.inactive.min(policy.inactive);
        known.states_min = known.states_min.min(policy.states_min);
    }

    /// `manifest` landed on `before`, and forgets no more than its publisher's policy allows.
    pub(super) fn check_expiry(
        &self,
        state: &State,
        client: &str,
        before: &Manifest,
        manifest: &Manifest,
    ) {
        let (was, now) = (before.oldest_retained, manifest.oldest_retained);
        let same_life = before.incarnation == manifest.incarnation;
        let is_alive = matches!(manifest.state, ImageState::Active | ImageState::Clean);
        if now <= was || !same_life || !is_alive {
            return;
        }
        let Some(policy) = state.policies.get(client) else {
            self.journal.fail(
                "8 (expiry)",
                format_args!("{client} forgets versions below {now}, and is no collector"),
            );
        };
        self.journal.checked(8);
        let kept = state.published.versions().map(|it| &*it.manifest);
        let kept: Vec<&Manifest> = kept.filter(|it| it.version >= was).collect();
        let states = |from: Version| {
            let states = kept.iter().filter(|it| it.version >= from);
            let states = states.map(|it| (it.incarnation, it.lsn, it.size_bytes));
            // What the collector publishes is the newest state once more.
            let newest = (manifest.incarnation, manifest.lsn, manifest.size_bytes);
            let mut states: Vec<_> = states.chain([newest]).collect();
            states.dedup();
            states.len()
        };
        let wanted = states(was).min(policy.states_min.max(1) as usize);
        if states(now) < wanted {
            self.journal.fail(
                "8 (expiry)",
                format_args!(
                    "{client} keeps {} states from version {now} on, and is told to keep {}",
                    states(now),
                    policy.states_min
                ),
            );
        }
        for pair in kept.windows(2).filter(|pair| pair[0].version < now) {
            let age = manifest.published_at.since_ms(pair[1].published_at);
            if !policy.inactive.is_zero() && u128::from(age) < policy.inactive.as_millis() {
                self.journal.fail(
                    "8 (expiry)",
                    format_args!(
                        "{client} forgets version {}, {age} ms after it was followed",
                        pair[0].version
                    ),
                );
            }
        }
    }

    /// `server` was asked for a snapshot when everything up to `lsn` was acknowledged, and says that
    /// it is `version`.
    pub fn snapshot_made(&self, server: &str, version: Version, (branch, lsn): (BranchId, Lsn)) {
        let state = self.state();
        self.journal.checked(1);
        let Some(landed) = state.published.version(version) else {
            return;
        };
        if landed.branch == branch && landed.manifest.lsn < lsn {
            self.journal.fail(
                "1 (acknowledged)",
                format_args!(
                    "{server} says that a snapshot is version {version}, at LSN {}; {lsn} had been \
                     acknowledged",
                    landed.manifest.lsn
                ),
            );
        }
    }
}

trait Since {
    fn since_ms(self, earlier: Self) -> u64;
}

impl Since for WallTime {
    fn since_ms(self, earlier: Self) -> u64 {
        self.unix_ms.saturating_sub(earlier.unix_ms)
    }
}
