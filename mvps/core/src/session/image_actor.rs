//! The actor of one image: the task that opens it, attaches connections to it and closes it.
//!
//! Job: open the image once for all who want it, grow it, end a client's earlier connection when a
//! newer one comes, close the image after idle time and at shutdown.
//!
//! Invariants: an image has one actor at most, because the registry holds it under the image's id.
//! The actor leaves the registry before it ends, and every request is answered or handed back. A
//! client's earlier connection, replaced or ended by itself, is revoked before its successor is
//! attached.
//!
//! Must never: touch what a client reads or writes. Connections talk to the image, not to its
//! actor.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::connection::{Admitted, Order};
use super::disk::Disk;
use super::fair_scheduler::FairScheduler;
use super::images::{Images, OpenFailure, OpenImage};
use super::limits::{
    ATTACH_QUEUE_MAX, CONNECTIONS_PER_IMAGE_MAX, DRAIN_TIME_MAX, SETTLE_PAUSE, SETTLE_TIME_MAX,
};
use super::payload_budget::PayloadBudget;
use super::server_state::{ActorRequest, DiskOf, Served, ServerState};
use crate::engine::{Durability, EngineError};
use crate::nbd::{Export, Refusal};
use crate::token::{ClientId, DurabilityClaim, Grant};

/// Who attaches, and where the answer goes.
type Attach<M> = (Grant, oneshot::Sender<Result<Admitted<DiskOf<M>>, Refusal>>);

/// A connection that was attached and may have ended.
struct Connected<D> {
    client: Option<ClientId>,
    disk: D,
    /// Closed once the connection has ended.
    orders: watch::Sender<Order>,
}

/// The task of one image.
pub(super) struct ImageActor<M: Images> {
    shared: Arc<ServerState<M>>,
    served: Served,
    requests: mpsc::Receiver<ActorRequest<M>>,
    image: Option<M::Image>,
    connections: Vec<Connected<DiskOf<M>>>,
    budget: PayloadBudget,
    scheduler: FairScheduler,
}

impl<M: Images> ImageActor<M> {
    /// Where to ask the actor of what `grant` shows. Starts it if there is none.
    pub(super) fn of(shared: &Arc<ServerState<M>>, grant: &Grant) -> mpsc::Sender<ActorRequest<M>> {
        let served = (grant.image.clone(), grant.shown.clone());
        let mut registry = shared.registry();
        if let Some(actor) = registry.get(&served) {
            return actor.clone();
        }
        let (sender, requests) = mpsc::channel(ATTACH_QUEUE_MAX);
        registry.insert(served.clone(), sender.clone());
        let actor = Self::new(Arc::clone(shared), served, requests);
        let run = Box::pin(actor.run());
        shared.spawner.spawn("image actor", run);
        sender
    }

    fn new(
        shared: Arc<ServerState<M>>,
        served: Served,
        requests: mpsc::Receiver<ActorRequest<M>>,
    ) -> Self {
        Self {
            budget: shared.budget.of_another_image(),
            scheduler: FairScheduler::new(shared.config.scheduler_permits),
            shared,
            served,
            requests,
            image: None,
            connections: Vec::new(),
        }
    }

    /// Runs until the image is idle or the server shuts down.
    async fn run(mut self) {
        let mut shutdown = self.shared.shutdown.subscribe();
        let shared = Arc::clone(&self.shared);
        loop {
            let ordered = tokio::select! {
                biased;
                _ = shutdown.wait_for(|ordered| *ordered) => true,
                () = self.serve() => false,
            };
            if ordered {
                self.drain().await;
            }
            self.close().await;
            // Who finds the queue empty while holding the registry leaves nobody behind: whoever
            // has a sender already gets the request back and asks the registry again.
            let mut registry = shared.registry();
            if ordered || self.requests.is_empty() {
                registry.remove(&self.served);
                drop(registry);
                shared.actor_ended.notify_waiters();
                return;
            }
        }
    }

    /// Attaches connections until the image has been idle for long enough.
    async fn serve(&mut self) {
        loop {
            let Some((grant, reply)) = self.next_attach().await else {
                return;
            };
            if reply.is_closed() {
                // The client is gone. It must not end an earlier connection that it still has.
                continue;
            }
            let answer = self.attach(&grant).await;
            let failed = matches!(&answer, Err(AttachError::Image(EngineError::Closed)));
            // A client that is gone needs no answer: it counts as a connection that ended.
            let _ = reply.send(answer.map_err(|error| error.refusal(&grant)));
            if failed {
                // A fresh opening may mend it.
                return;
            }
        }
    }

    /// The next connection that wants to attach; `None` once the image has been idle for long
    /// enough. A request for the status does not put that off.
    async fn next_attach(&mut self) -> Option<Attach<M>> {
        let idle = idle(&self.shared, self.image.as_ref(), &self.connections);
        let mut idle = pin!(idle);
        loop {
            let request = tokio::select! {
                biased;
                request = self.requests.recv() => request?,
                () = &mut idle => return None,
            };
            match request {
                ActorRequest::Attach(grant, reply) => return Some((grant, reply)),
                // Who is gone needs no answer.
                ActorRequest::Status(reply) => {
                    let connections = self.connections.iter();
                    let live = connections.filter(|one| !one.orders.is_closed()).count();
                    drop(reply.send(self.image.clone().map(|image| (image, live))));
                }
            }
        }
    }

    async fn attach(&mut self, grant: &Grant) -> Result<Admitted<DiskOf<M>>, AttachError> {
        let image = match &self.image {
            Some(image) => image.clone(),
            None => {
                let image = self
                    .shared
                    .images
                    .open(grant)
                    .await
                    .map_err(AttachError::Open)?;
                self.image.insert(image).clone()
            }
        };
        if grant
            .page_size
            .is_some_and(|page_size| page_size != image.page_size())
        {
            return Err(AttachError::PageSize);
        }
        self.forget_ended().await;
        self.replace(grant).await;
        if self.connections.len() >= CONNECTIONS_PER_IMAGE_MAX {
            if self.shared.logs_client() {
                let limit = CONNECTIONS_PER_IMAGE_MAX;
                tracing::warn!(image = %grant.image, limit, "too many connections");
            }
            return Err(AttachError::TooManyConnections);
        }
        if let Some(size_bytes) = grant.size_bytes
            && size_bytes > image.size_bytes()
        {
            image.grow(size_bytes).await.map_err(AttachError::Image)?;
        }
        let disk = image.attach();
        let (orders, orders_received) = watch::channel(Order::Serve);
        self.connections.push(Connected {
            client: grant.client.clone(),
            disk: disk.clone(),
            orders,
        });
        Ok(Admitted {
            export: export(grant, image.size_bytes(), image.page_size().bytes()),
            disk,
            durability: match grant.durability {
                None => self.shared.config.durability,
                Some(DurabilityClaim::Local) => Durability::Local,
                Some(DurabilityClaim::ObjectStore) => Durability::ObjectStore,
            },
            orders: orders_received,
            budget: self.budget.clone(),
            scheduler: self.scheduler.clone(),
        })
    }

    /// Forgets connections that have ended. What a named client's sent and is still waiting to be
    /// carried out goes with it: the client may be back, and must not be followed by it.
    async fn forget_ended(&mut self) {
        let has_ended = |connected: &Connected<_>| connected.orders.is_closed();
        while let Some(position) = self.connections.iter().position(has_ended) {
            let ended = self.connections.swap_remove(position);
            let follows = crate::mutant::is("what a lost connection sent follows its client");
            if ended.client.is_some() && !follows {
                ended.disk.revoke().await;
            }
        }
    }

    /// Ends the client's earlier connection.
    async fn replace(&mut self, grant: &Grant) {
        let Some(client) = &grant.client else {
            return;
        };
        let same = |connected: &Connected<_>| connected.client.as_ref() == Some(client);
        while let Some(position) = self.connections.iter().position(same) {
            let earlier = self.connections.swap_remove(position);
            earlier.orders.send_replace(Order::Stop);
            earlier.disk.revoke().await;
            if self.shared.logs_client() {
                tracing::info!(image = %self.served.0, %client, "a newer connection of the client took over");
            }
        }
    }

    /// Lets connections finish what they began, for a while.
    async fn drain(&mut self) {
        for connected in &self.connections {
            connected.orders.send_replace(Order::Drain);
        }
        tokio::select! {
            biased;
            () = all_ended(&self.connections) => {}
            () = self.shared.clock.sleep(DRAIN_TIME_MAX) => {
                tracing::warn!(image = %self.served.0, "connections did not end in time; cutting them off");
            }
        }
        for connected in &self.connections {
            connected.orders.send_replace(Order::Stop);
        }
        all_ended(&self.connections).await;
        self.requests.close();
        while let Ok(request) = self.requests.try_recv() {
            match request {
                ActorRequest::Attach(_, reply) => drop(reply.send(Err(Refusal::Shutdown))),
                ActorRequest::Status(reply) => drop(reply.send(None)),
            }
        }
    }

    async fn close(&mut self) {
        self.connections.clear();
        if let Some(image) = self.image.take() {
            match image.close().await {
                Ok(()) => tracing::info!(image = %self.served.0, "closed clean"),
                Err(error) => {
                    tracing::warn!(image = %self.served.0, %error, "closed, but not published clean");
                }
            }
        }
    }
}

/// What a client that holds `grant` is told of the image.
pub(super) fn export(grant: &Grant, size_bytes: u64, page_bytes: usize) -> Export {
    Export {
        size_bytes,
        preferred_block_bytes: u32::try_from(page_bytes).expect("a page is at most 64 KiB"),
        read_only: grant.read_only,
        can_multi_conn: grant.client.is_none(),
        name: grant.image.as_str().to_owned(),
        description: format!("mvps image {}", grant.image),
    }
}

enum AttachError {
    Open(OpenFailure),
    Image(EngineError),
    PageSize,
    TooManyConnections,
}

impl AttachError {
    /// What the client hears; the log hears more.
    fn refusal(&self, grant: &Grant) -> Refusal {
        let image = &grant.image;
        let message = match self {
            Self::Open(failure) => {
                tracing::error!(%image, reason = %failure.reason, "cannot open the image");
                failure
                    .told
                    .unwrap_or("the image cannot be opened; the server's log says why")
            }
            Self::Image(error) => {
                tracing::error!(%image, %error, "cannot attach to the image");
                "the image cannot be served; the server's log says why"
            }
            Self::PageSize => "the image has another page size than the token says",
            Self::TooManyConnections => "the image has too many connections",
        };
        Refusal::Unknown {
            message: Cow::Borrowed(message),
        }
    }
}

async fn all_ended<D>(connections: &[Connected<D>]) {
    for connected in connections {
        connected.orders.closed().await;
    }
}

/// Completes when there has been no connection for the idle time, and what was written is settled;
/// at once if nothing is open.
async fn idle<M: Images>(
    shared: &ServerState<M>,
    image: Option<&M::Image>,
    connections: &[Connected<DiskOf<M>>],
) {
    all_ended(connections).await;
    let Some(image) = image else { return };
    shared.clock.sleep(shared.config.idle_time).await;
    // Nobody cleans up in a closed image. A failure shows when it is closed.
    let settle = async {
        let _ = image.checkpoint().await;
        while !image.is_settled().await {
            shared.clock.sleep(SETTLE_PAUSE).await;
        }
    };
    tokio::select! {
        biased;
        () = settle => {}
        () = shared.clock.sleep(SETTLE_TIME_MAX) => {}
    }
}
