//! What views may still read (oracle 8, protocol §4.6), by the model's own account: who reads, since when,
//! and what the manifests referenced then. The retired list of a manifest is what is judged, and no
//! evidence.
//!
//! - A server's publication retires what it replaces.
//! - Whoever else publishes keeps the list.
//! - Nothing leaves it that a read which is under way may need.
//! - A server hands the image back only when nobody reads.

use std::collections::BTreeSet;
use std::sync::Arc;

use mvps_core::format::manifest::{ImageState, Manifest};
use mvps_core::format::object_name::ObjectName;

use super::published::needs;
use super::state::{Model, State};

/// A read that is under way.
#[derive(Debug, Clone)]
pub(super) struct OpenRead {
    server: String,
    /// The last publications of its server when its view was made: the view reads through the map of
    /// one of these.
    own: Vec<Arc<Manifest>>,
}

impl OpenRead {
    /// Whether it needs `name` whichever of the maps its view has.
    fn needs(&self, name: &ObjectName) -> bool {
        let in_all = |manifest: &Arc<Manifest>| needs(manifest).any(|it| it == name);
        !self.own.is_empty() && self.own.iter().all(in_all)
    }
}

/// A read that is under way, until this is dropped.
pub struct ReadGuard {
    model: Arc<Model>,
    number: u64,
}

impl Drop for ReadGuard {
    fn drop(&mut self) {
        self.model.state().open_reads.remove(&self.number);
    }
}

/// What the views that a server makes now may read.
#[derive(Debug, Clone)]
pub struct ViewBasis {
    own: Vec<Arc<Manifest>>,
}

impl ViewBasis {
    /// What a view may read that was made at some time between this basis and `later`.
    #[must_use]
    pub fn until(mut self, later: Self) -> Self {
        self.own.extend(later.own);
        self
    }
}

impl Model {
    /// What a view of `server` that is made now may read.
    #[must_use]
    pub fn view_basis(&self, server: &str) -> ViewBasis {
        let state = self.state();
        let known = state.servers.get(server);
        ViewBasis {
            own: known.map_or_else(Vec::new, |it| it.own.iter().cloned().collect()),
        }
    }

    /// A read of `server` begins, through a view that was made on `basis`.
    #[must_use]
    pub fn reading(self: &Arc<Self>, server: &str, basis: &ViewBasis) -> ReadGuard {
        let mut state = self.state();
        let number = state.next_read;
        state.next_read += 1;
        let read = OpenRead {
            server: server.to_owned(),
            own: basis.own.clone(),
        };
        state.open_reads.insert(number, read);
        ReadGuard {
            model: Arc::clone(self),
            number,
        }
    }

    /// `manifest` of `client` landed on `before`: it lets go of nothing too early.
    pub(super) fn check_retirement(
        &self,
        state: &State,
        client: &str,
        before: &Manifest,
        manifest: &Manifest,
    ) {
        if before.incarnation != manifest.incarnation || is_gone(before) || is_gone(manifest) {
            return;
        }
        self.journal.checked(8);
        let fails = |name: &ObjectName, why: &str| -> ! {
            self.journal.fail(
                "8 (retirement)",
                format_args!(
                    "{client} published version {} without {name}: {why}",
                    manifest.version
                ),
            )
        };
        let kept: BTreeSet<&ObjectName> = needs(manifest)
            .chain(manifest.retired.iter().map(|it| &it.name))
            .collect();
        let is_own = state.is_active_writer_of(manifest, client);
        if is_own
            && before.state == ImageState::Active
            && let Some(name) = needs(before).find(|name| !kept.contains(name))
        {
            fails(name, "it replaced it, and did not retire it");
        }
        if !is_own && before.state == ImageState::Active {
            let mut retired = before.retired.iter().map(|it| &it.name);
            if let Some(name) = retired.find(|name| !kept.contains(name)) {
                fails(name, "only the server may let go of what it retired");
            }
        }
        if !is_own {
            return;
        }
        let mut reads = state.open_reads.values();
        if manifest.state == ImageState::Clean {
            if reads.any(|read| read.server == client) {
                self.journal.fail(
                    "8 (retirement)",
                    format_args!("{client} hands the image back while somebody reads"),
                );
            }
            return;
        }
        for read in reads.filter(|read| read.server == client) {
            let listed = needs(before).chain(before.retired.iter().map(|it| &it.name));
            for name in listed.filter(|name| !kept.contains(name)) {
                if read.needs(name) {
                    fails(name, "a read that began before may need it");
                }
            }
        }
    }
}

fn is_gone(manifest: &Manifest) -> bool {
    matches!(
        manifest.state,
        ImageState::Tombstone | ImageState::Abandoned
    )
}

/// A view that is made now has the map of the last publication, or, until the server has seen that
/// it counted, that of the one before.
const OWN_KEPT: usize = 2;

impl State {
    /// Whether `client` is the server of the manifest's tenure.
    fn is_active_writer_of(&self, manifest: &Manifest, client: &str) -> bool {
        let began = self.begun_by_process.get(&manifest.tenure.id);
        began.is_some_and(|it| it == client) && self.servers.contains_key(client)
    }

    /// `manifest` is the newest, and its server's own.
    pub(super) fn note_own(&mut self, client: &str, manifest: &Arc<Manifest>) {
        if !self.is_active_writer_of(manifest, client) {
            return;
        }
        if let Some(server) = self.servers.get_mut(client) {
            if server.own.len() == OWN_KEPT {
                server.own.pop_front();
            }
            server.own.push_back(Arc::clone(manifest));
        }
    }

    /// Which read under way of the active writer needs `name`.
    pub(super) fn read_that_needs(&self, name: &ObjectName) -> Option<&str> {
        let newest = self.newest.as_ref()?;
        let writer = self.begun_by_process.get(&newest.tenure.id)?;
        let mut reads = self.open_reads.values();
        let read = reads.find(|it| it.server == *writer && it.needs(name))?;
        Some(&read.server)
    }
}
