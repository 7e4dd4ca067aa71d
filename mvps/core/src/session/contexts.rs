//! The contexts of one connection, and what they say of a range.
//!
//! A connection finds the version of an earlier state when the client first asks about it, and
//! keeps it, whatever becomes of a snapshot's name. Must never: say that something is unchanged
//! because the state to compare with is gone; that is an error.

use std::ops::Range;

use tokio::sync::OnceCell;

use super::disk::{Disk, ReadAt};
use crate::engine::EngineError;
use crate::ids::Version;
use crate::nbd::{
    self, Context, ContextName, ContextPurpose, ContextQuery, ContextStatus, ContextsRequest,
    StatusExtent,
};
use crate::protocol::Since;

/// The contexts that one connection selected.
pub(super) struct Contexts {
    selected: Vec<(Context, OnceCell<Version>)>,
}

impl Contexts {
    pub(super) fn new(selected: Vec<Context>) -> Self {
        let selected = selected.into_iter();
        Self {
            selected: selected.map(|context| (context, OnceCell::new())).collect(),
        }
    }

    /// How many were selected.
    pub(super) fn len(&self) -> usize {
        self.selected.len()
    }

    /// What each context says of `range` of `source`, in at most `extents_max` extents. `disk`
    /// opens the states that it is compared with.
    pub(super) async fn status<D: Disk>(
        &self,
        range: Range<u64>,
        extents_max: usize,
        disk: &D,
        source: &impl ReadAt<Base = D::Base>,
    ) -> Result<Vec<ContextStatus>, EngineError> {
        let mut statuses = Vec::with_capacity(self.selected.len());
        for (context, version) in &self.selected {
            let base = match &context.name {
                ContextName::Allocation => None,
                ContextName::ChangedSince(since) => {
                    let find = || async { disk.find_base(&of_wire(since)).await };
                    let version = version.get_or_try_init(find).await?;
                    Some(disk.base(*version).await?)
                }
            };
            let found = source
                .extents(range.clone(), base.as_ref(), extents_max)
                .await?;
            let extents = found.into_iter().map(|extent| StatusExtent {
                length_bytes: extent.length_bytes,
                flags: context.name.flags(extent.is_set),
            });
            statuses.push(ContextStatus {
                context: context.id,
                extents: extents.collect(),
            });
        }
        Ok(statuses)
    }
}

/// The engine's name for a state that a client names.
pub(super) fn of_wire(since: &nbd::Since) -> Since {
    match since {
        nbd::Since::Version(version) => Since::Version(Version(*version)),
        nbd::Since::Snapshot(name) => Since::Snapshot(name.clone()),
    }
}

/// What a request for contexts asks about the image: nothing, if the names alone are the answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// `base:allocation` is among them.
    pub(super) allocation: bool,
    /// States by name, which are to be looked for.
    pub(super) named: Vec<nbd::Since>,
    /// Snapshots are to be listed.
    pub(super) snapshots: bool,
    /// Versions are to be listed.
    pub(super) versions: bool,
}

impl Asked {
    /// A list of everything has the snapshots, which somebody gave names, and not the versions.
    pub(super) fn of(request: &ContextsRequest) -> Self {
        let all = request.purpose == ContextPurpose::List && request.queries.is_empty();
        let mut asked = Self {
            allocation: all,
            named: Vec::new(),
            snapshots: all,
            versions: false,
        };
        for query in &request.queries {
            match query {
                ContextQuery::Name(ContextName::Allocation) | ContextQuery::AllBase => {
                    asked.allocation = true;
                }
                ContextQuery::Name(ContextName::ChangedSince(since)) => {
                    asked.named.push(since.clone());
                }
                ContextQuery::AllChangedSince => {
                    (asked.snapshots, asked.versions) = (true, true);
                }
                ContextQuery::Foreign => {}
            }
        }
        asked
    }

    /// The contexts, given which of the named states exist and what else was found.
    pub(super) fn names(&self, named: Vec<nbd::Since>, listed: Vec<Since>) -> Vec<ContextName> {
        let mut names = Vec::new();
        if self.allocation {
            names.push(ContextName::Allocation);
        }
        let listed = listed.into_iter().filter_map(|since| match since {
            Since::Snapshot(name) => self.snapshots.then_some(nbd::Since::Snapshot(name)),
            Since::Version(version) => self.versions.then_some(nbd::Since::Version(version.0)),
        });
        for since in named.into_iter().chain(listed) {
            let name = ContextName::ChangedSince(since);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}
