//! The server: listeners, connections, and the registry of images that are open.
//!
//! Job: accept connections within limits, check tokens, and lead each connection to the actor of
//! its image. Invariant: the registry holds at most one actor per image. Must never: let a client
//! learn why a token was refused, or write a token to the log.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::connection::{Admission, Admitted, Ended, serve};
use super::connection_limiter::{ConnectionLimiter, Evicted, NoSlot, Slot};
use super::contexts::{self, Asked};
use super::image_actor::{ActorRequest, ImageActor, export};
use super::images::{Images, OpenFailure, OpenImage};
use super::limits::{
    ATTACH_ATTEMPTS_MAX, ATTACH_QUEUE_MAX, CLIENTS_LOG_LINES_MAX, CONNECTIONS_MAX,
    LISTED_VERSIONS_MAX, SLOTS_PER_IMAGE_MAX, UNAUTHENTICATED_LOG_LINES_MAX,
};
use super::log_budget::LogBudget;
use super::payload_budget::PayloadBudget;
use super::security::{Security, TlsClient};
use crate::engine::Durability;
use crate::env::{Clock, Connection, Listener, PeerName, Spawner, let_others_run};
use crate::ids::ImageId;
use crate::nbd::{ContextName, ContextsRequest, Export, ExportName, Refusal};
use crate::token::{Grant, Shown, TokenKeys};

#[cfg(test)]
mod tests;

/// What an operator may set.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// An image without connections for this long is checkpointed, published clean and closed, once
    /// it is cleaned up after.
    pub idle_time: Duration,
    /// Most connections, handshakes included.
    pub connections_max: usize,
    /// What FLUSH and FUA promise where the token does not say.
    pub durability: Durability,
    /// What connections can be encrypted with.
    pub security: Option<Arc<dyn Security>>,
    /// Connections of one image that go on at a time, of many that could: as many as there are threads
    /// that tasks run on.
    pub scheduler_permits: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            idle_time: Duration::from_secs(60),
            connections_max: CONNECTIONS_MAX,
            durability: Durability::default(),
            security: None,
            scheduler_permits: 1,
        }
    }
}

/// What all tasks of a server share.
pub(super) struct Shared<M: Images> {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) spawner: Arc<dyn Spawner>,
    pub(super) images: M,
    pub(super) config: ServerConfig,
    /// Whether the server is to end.
    pub(super) shutdown: watch::Sender<bool>,
    /// Told whenever an actor has left the registry.
    pub(super) actor_ended: Notify,
    keys: TokenKeys,
    limiter: Arc<ConnectionLimiter>,
    /// For the payload of writes: each image has its own share of the server's.
    pub(super) budget: PayloadBudget,
    /// How many lines the log takes about connections without a good token, and about those with one.
    unauthenticated_log: LogBudget,
    clients_log: LogBudget,
    registry: Mutex<Registry<M>>,
}

/// The actors, by what they serve.
pub(super) type Registry<M> = BTreeMap<Served, mpsc::Sender<ActorRequest<M>>>;

/// What an actor serves: an image, and which state of it.
pub(super) type Served = (ImageId, Shown);

impl<M: Images> Shared<M> {
    pub(super) fn registry(&self) -> MutexGuard<'_, Registry<M>> {
        self.registry
            .lock()
            .expect("no holder of the registry panics")
    }

    /// The actor of what `grant` shows, started if there is none.
    fn actor(self: &Arc<Self>, grant: &Grant) -> mpsc::Sender<ActorRequest<M>> {
        let served = (grant.image.clone(), grant.shown.clone());
        let mut registry = self.registry();
        if let Some(actor) = registry.get(&served) {
            return actor.clone();
        }
        let (sender, requests) = mpsc::channel(ATTACH_QUEUE_MAX);
        registry.insert(served.clone(), sender.clone());
        let actor = ImageActor::new(Arc::clone(self), served, requests);
        self.spawner.spawn("image actor", Box::pin(actor.run()));
        sender
    }

    fn is_shutting_down(&self) -> bool {
        *self.shutdown.borrow()
    }

    /// Whether the log takes another line about a connection without a good token.
    fn logs_unauthenticated(&self) -> bool {
        self.unauthenticated_log.allows(self.clock.now())
    }

    /// Whether the log takes another line about a connection that has shown a good token.
    pub(super) fn logs_client(&self) -> bool {
        self.clients_log.allows(self.clock.now())
    }
}

/// An NBD server. Clones are the same server.
pub struct Server<M: Images> {
    shared: Arc<Shared<M>>,
}

impl<M: Images> Clone for Server<M> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<M: Images> Server<M> {
    /// A server of `images` for clients with tokens of `keys`.
    #[must_use]
    pub fn new(
        clock: Arc<dyn Clock>,
        spawner: Arc<dyn Spawner>,
        images: M,
        keys: TokenKeys,
        config: ServerConfig,
    ) -> Self {
        let limiter = ConnectionLimiter::new(config.connections_max);
        let shared = Shared {
            clock,
            spawner,
            images,
            config,
            shutdown: watch::Sender::new(false),
            actor_ended: Notify::new(),
            keys,
            limiter,
            budget: PayloadBudget::new(),
            unauthenticated_log: LogBudget::new(
                "connections without a token",
                UNAUTHENTICATED_LOG_LINES_MAX,
            ),
            clients_log: LogBudget::new("connections with a token", CLIENTS_LOG_LINES_MAX),
            registry: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Accepts connections until [`Self::shut_down`], one task each.
    pub async fn listen(&self, mut listener: Box<dyn Listener>) {
        let mut shutdown = self.shared.shutdown.subscribe();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = shutdown.wait_for(|ordered| *ordered) => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    // Out of descriptors, most likely: trying again at once would spin.
                    self.shared.clock.sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(slot) = self.take_slot(&peer) else {
                continue;
            };
            let server = self.clone();
            let task = async move {
                server.serve_in_slot(stream, &peer, slot).await;
            };
            self.shared.spawner.spawn("nbd connection", Box::pin(task));
            // A flood of connections gets one turn in each round of the executor, not all.
            if !crate::mutant::is("a flood of connections goes first") {
                let_others_run().await;
            }
        }
    }

    /// Serves one connection to its end.
    pub async fn serve_connection(&self, stream: impl Connection, peer: &PeerName) -> Ended {
        match self.take_slot(peer) {
            Some(slot) => self.serve_in_slot(stream, peer, slot).await,
            None => Ended::TurnedAway,
        }
    }

    fn take_slot(&self, peer: &PeerName) -> Option<(Slot, Evicted)> {
        let slot = self.shared.limiter.take();
        if slot.is_none() && self.shared.logs_unauthenticated() {
            let limit = self.shared.config.connections_max;
            tracing::warn!(%peer, limit, "too many connections; turned away");
        }
        slot
    }

    async fn serve_in_slot(
        &self,
        stream: impl Connection,
        peer: &PeerName,
        (slot, evicted): (Slot, Evicted),
    ) -> Ended {
        tracing::debug!(%peer, "connected");
        let admission = TokenAdmission {
            shared: Arc::clone(&self.shared),
            peer,
            slot,
            client: Mutex::default(),
        };
        let ended = tokio::select! {
            biased;
            Ok(()) = evicted => Ended::Evicted,
            ended = serve(stream, &admission, &*self.shared.clock) => ended,
        };
        let has_budget = || match admission.slot.is_admitted() {
            true => self.shared.logs_client(),
            false => self.shared.logs_unauthenticated(),
        };
        match &ended {
            // Of these a flood makes as many as it likes; they take nothing of the budget for what is told.
            Ended::Evicted => tracing::debug!(%peer, %ended, "connection ended"),
            _ if !has_budget() => {}
            Ended::TlsFailed(_) => tracing::warn!(%peer, %ended, "connection ended"),
            Ended::Broken(_) | Ended::HandshakeTooSlow | Ended::Stalled | Ended::Lost(_) => {
                tracing::warn!(%peer, %ended, "connection ended");
            }
            _ => tracing::info!(%peer, %ended, "connection ended"),
        }
        ended
    }

    /// The image, if it is open.
    pub async fn image(&self, image: &ImageId) -> Option<M::Image> {
        self.image_and_connections(image)
            .await
            .map(|(image, _)| image)
    }

    /// The image, if it is open as it changes, and how many connections it has. Waits while it is being opened.
    pub async fn image_and_connections(&self, image: &ImageId) -> Option<(M::Image, usize)> {
        let served = (image.clone(), Shown::Newest);
        let actor = self.shared.registry().get(&served).cloned()?;
        let (reply, answer) = oneshot::channel();
        actor.send(ActorRequest::Status(reply)).await.ok()?;
        answer.await.ok()?
    }

    /// The images that are open, or being opened or closed.
    #[must_use]
    pub fn image_ids(&self) -> Vec<ImageId> {
        let registry = self.shared.registry();
        let mut ids: Vec<ImageId> = registry.keys().map(|(id, _)| id.clone()).collect();
        ids.dedup();
        ids
    }

    /// Connections right now, handshakes included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.limiter.taken()
    }

    /// Stops accepting, lets connections finish what they began, closes every image clean. Waits
    /// for the object store as long as that takes.
    pub async fn shut_down(&self) {
        self.shared.shutdown.send_replace(true);
        loop {
            let ended = self.shared.actor_ended.notified();
            if self.shared.registry().is_empty() {
                return;
            }
            ended.await;
        }
    }
}

/// Admits one connection by the tokens that it shows.
struct TokenAdmission<'a, M: Images> {
    shared: Arc<Shared<M>>,
    peer: &'a PeerName,
    slot: Slot,
    /// What the client proved, if the stream is encrypted.
    client: Mutex<Option<TlsClient>>,
}

type Attached<M> = Admitted<<<M as Images>::Image as OpenImage>::Disk>;

impl<M: Images> TokenAdmission<'_, M> {
    /// Asks the image's actor.
    async fn ask_actor(&self, grant: &Grant) -> Result<Attached<M>, Refusal> {
        for _ in 0..ATTACH_ATTEMPTS_MAX {
            let (reply, answer) = oneshot::channel();
            let actor = self.shared.actor(grant);
            if actor
                .send(ActorRequest::Attach(grant.clone(), reply))
                .await
                .is_err()
            {
                if self.shared.is_shutting_down() {
                    return Err(Refusal::Shutdown);
                }
                continue;
            }
            if let Ok(answer) = answer.await {
                if let Ok(admitted) = &answer
                    && self.shared.logs_client()
                {
                    tracing::info!(
                        peer = %self.peer, image = %grant.image, read_only = grant.read_only,
                        size_bytes = admitted.export.size_bytes, "attached"
                    );
                }
                return answer;
            }
        }
        Err(unknown("the image is being closed; try again"))
    }

    fn check(&self, name: &ExportName) -> Result<Grant, Refusal> {
        if self.shared.is_shutting_down() {
            return Err(Refusal::Shutdown);
        }
        let grant = self
            .shared
            .keys
            .admit(name.reveal(), self.shared.clock.wall());
        let grant = grant.map_err(|reason| {
            if self.shared.logs_unauthenticated() {
                tracing::warn!(peer = %self.peer, %reason, "token refused");
            }
            Refusal::Policy
        })?;
        if let Some(required) = &grant.tls_client
            && !self.is_client(required)
        {
            if self.shared.logs_unauthenticated() {
                tracing::warn!(
                    peer = %self.peer, required,
                    "token refused: the client has not proven that name by a TLS certificate"
                );
            }
            return Err(Refusal::Policy);
        }
        Ok(grant)
    }

    fn is_client(&self, name: &str) -> bool {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let names = client.iter().flat_map(|client| &client.names);
        names
            .into_iter()
            .any(|proven| proven.eq_ignore_ascii_case(name))
    }
}

fn unknown(message: &'static str) -> Refusal {
    Refusal::Unknown {
        message: Cow::Borrowed(message),
    }
}

impl<M: Images> Admission for TokenAdmission<'_, M> {
    type Disk = <M::Image as OpenImage>::Disk;

    fn security(&self) -> Option<&dyn Security> {
        self.shared.config.security.as_deref()
    }

    fn identified(&self, client: TlsClient) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
    }

    async fn describe(&self, name: &ExportName) -> Result<Export, Refusal> {
        let grant = self.check(name)?;
        let found = self.shared.images.look(&grant).await.map_err(|failure| {
            tracing::error!(image = %grant.image, reason = %failure.reason, "cannot look at it");
            let untold = "the image cannot be read; the server's log says why";
            unknown(failure.told.unwrap_or(untold))
        })?;
        // What attaching with this token would give.
        match (found, grant.size_bytes) {
            (Some(facts), _) if grant.page_size.is_some_and(|size| size != facts.page_size) => Err(
                unknown("the image has another page size than the token says"),
            ),
            (Some(facts), wanted) => {
                let size_bytes = facts.size_bytes.max(wanted.unwrap_or(0));
                Ok(export(&grant, size_bytes, facts.page_size.bytes()))
            }
            (None, Some(size_bytes)) => {
                Ok(export(&grant, size_bytes, grant.page_size_of_new().bytes()))
            }
            (None, None) => Err(unknown(
                "there is no such image, and the token names no size",
            )),
        }
    }

    async fn contexts(&self, request: &ContextsRequest) -> Result<Vec<ContextName>, Refusal> {
        let grant = self.check(&request.name)?;
        let asked = Asked::of(request);
        let (image, images) = (&grant.image, &self.shared.images);
        let refused = |failure: OpenFailure| {
            tracing::error!(%image, reason = %failure.reason, "cannot look at its versions");
            unknown("the image cannot be read; the server's log says why")
        };
        let mut named = Vec::new();
        for since in &asked.named {
            let retained = images.retains(image, &contexts::of_wire(since)).await;
            if retained.map_err(refused)? {
                named.push(since.clone());
            }
        }
        let listed = if asked.snapshots || asked.versions {
            let listed = images.list_retained(image, LISTED_VERSIONS_MAX).await;
            listed.map_err(refused)?
        } else {
            Vec::new()
        };
        Ok(asked.names(named, listed))
    }

    async fn attach(&self, name: &ExportName) -> Result<Admitted<Self::Disk>, Refusal> {
        let grant = self.check(name)?;
        match self.slot.admit(&grant.image) {
            Ok(()) => {}
            // It is on its way out.
            Err(NoSlot::Evicted) => return Err(Refusal::Policy),
            Err(NoSlot::ImageFull) => {
                if self.shared.logs_client() {
                    let limit = SLOTS_PER_IMAGE_MAX;
                    tracing::warn!(image = %grant.image, limit, "too many connections, or too many that wait for it");
                }
                return Err(unknown("the image has too many connections"));
            }
        }
        let answer = self.ask_actor(&grant).await;
        if answer.is_err() {
            self.slot.release();
        }
        answer
    }
}
