//! What the tasks of one server share: its settings and budgets, and the registry of the images
//! that are open.
//!
//! Invariant: the registry holds at most one actor for what is served.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::connection::Admitted;
use super::connection_limiter::ConnectionLimiter;
use super::images::{Images, OpenImage};
use super::limits::{CLIENTS_LOG_LINES_MAX, CONNECTIONS_MAX, UNAUTHENTICATED_LOG_LINES_MAX};
use super::log_budget::LogBudget;
use super::payload_budget::{PayloadBudget, PayloadLimits};
use super::security::Security;
use crate::engine::Durability;
use crate::env::{Clock, Spawner};
use crate::ids::ImageId;
use crate::nbd::Refusal;
use crate::token::{Grant, Shown, TokenKeys};

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
    /// Connections of one image that go on at a time, of many that could: as many as there are
    /// threads that tasks run on.
    pub scheduler_permits: usize,
    /// Payload in flight.
    pub payload: PayloadLimits,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            idle_time: Duration::from_secs(60),
            connections_max: CONNECTIONS_MAX,
            durability: Durability::default(),
            security: None,
            scheduler_permits: 1,
            payload: PayloadLimits::default(),
        }
    }
}

/// What all tasks of a server share.
pub(super) struct ServerState<M: Images> {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) spawner: Arc<dyn Spawner>,
    pub(super) images: M,
    pub(super) config: ServerConfig,
    /// Whether the server is to end.
    pub(super) shutdown: watch::Sender<bool>,
    /// Told whenever an actor has left the registry.
    pub(super) actor_ended: Notify,
    pub(super) keys: TokenKeys,
    pub(super) limiter: Arc<ConnectionLimiter>,
    /// For payload in flight: each image has its own share of the server's.
    pub(super) budget: PayloadBudget,
    /// For lines of the log about connections that have shown no good token.
    unauthenticated_log: LogBudget,
    /// For lines of the log about connections that have shown one.
    clients_log: LogBudget,
    registry: Mutex<Registry<M>>,
}

/// A connection's access to an image of `M`.
pub(super) type DiskOf<M> = <<M as Images>::Image as OpenImage>::Disk;

/// What an actor is asked.
pub(super) enum ActorRequest<M: Images> {
    /// Attach a connection, opening the image if need be.
    Attach(Grant, oneshot::Sender<Result<Admitted<DiskOf<M>>, Refusal>>),
    /// The image, if it is open, and how many connections it has.
    Status(oneshot::Sender<Option<(M::Image, usize)>>),
}

/// The actors, by what they serve.
pub(super) type Registry<M> = BTreeMap<Served, mpsc::Sender<ActorRequest<M>>>;

/// What an actor serves: an image, and which state of it.
pub(super) type Served = (ImageId, Shown);

impl<M: Images> ServerState<M> {
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        spawner: Arc<dyn Spawner>,
        images: M,
        keys: TokenKeys,
        config: ServerConfig,
    ) -> Self {
        Self {
            clock,
            spawner,
            images,
            shutdown: watch::Sender::new(false),
            actor_ended: Notify::new(),
            keys,
            limiter: ConnectionLimiter::new(config.connections_max),
            budget: PayloadBudget::new(config.payload),
            config,
            unauthenticated_log: LogBudget::new(
                "connections without a token",
                UNAUTHENTICATED_LOG_LINES_MAX,
            ),
            clients_log: LogBudget::new("connections with a token", CLIENTS_LOG_LINES_MAX),
            registry: Mutex::default(),
        }
    }

    pub(super) fn registry(&self) -> MutexGuard<'_, Registry<M>> {
        self.registry
            .lock()
            .expect("no holder of the registry panics")
    }

    pub(super) fn is_shutting_down(&self) -> bool {
        *self.shutdown.borrow()
    }

    /// Whether the log takes another line about a connection without a good token.
    pub(super) fn logs_unauthenticated(&self) -> bool {
        self.unauthenticated_log.allows(self.clock.now())
    }

    /// Whether the log takes another line about a connection that has shown a good token.
    pub(super) fn logs_client(&self) -> bool {
        self.clients_log.allows(self.clock.now())
    }
}
