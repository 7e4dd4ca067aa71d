//! The server: accepts connections within limits and serves each of them to its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::connection::serve;
use super::connection_limiter::{Evicted, Slot};
use super::ended::Ended;
use super::images::Images;
use super::server_state::{ActorRequest, ServerConfig, ServerState};
use super::token_admission::TokenAdmission;
use crate::env::{Clock, Connection, Listener, PeerName, Spawner, let_others_run};
use crate::ids::ImageId;
use crate::token::{Shown, TokenKeys};

#[cfg(test)]
mod tests;

/// An NBD server. Clones are the same server.
pub struct Server<M: Images> {
    shared: Arc<ServerState<M>>,
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
        Self {
            shared: Arc::new(ServerState::new(clock, spawner, images, keys, config)),
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
        let admission = TokenAdmission::new(&self.shared, peer, slot);
        let ended = tokio::select! {
            biased;
            Ok(()) = evicted => Ended::Evicted,
            ended = serve(stream, &admission, &*self.shared.clock) => ended,
        };
        let has_budget = || match admission.is_admitted() {
            true => self.shared.logs_client(),
            false => self.shared.logs_unauthenticated(),
        };
        match &ended {
            // A flood makes as many of these as it likes; they take nothing of the log's budget.
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

    /// The image, if it is open as it changes, and how many connections it has. Waits while it is
    /// being opened.
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
