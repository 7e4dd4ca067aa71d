//! Which clients are admitted: what a connection may see and use, by the tokens that it shows.
//!
//! Job: check tokens, and lead a client with a good one to the actor of its image. Must never: let
//! a client learn why a token was refused, or write a token to the log.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::connection::{Admission, Admitted};
use super::connection_limiter::{NoSlot, Slot};
use super::contexts::{self, Asked};
use super::image_actor::{ImageActor, export};
use super::images::{Images, OpenFailure};
use super::limits::{ATTACH_ATTEMPTS_MAX, LISTED_VERSIONS_MAX, SLOTS_PER_IMAGE_MAX};
use super::security::{Security, TlsClient};
use super::server_state::{ActorRequest, DiskOf, ServerState};
use crate::env::PeerName;
use crate::nbd::{ContextName, ContextsRequest, Export, ExportName, Refusal};
use crate::token::Grant;

/// Admits one connection by the tokens that it shows.
pub(super) struct TokenAdmission<'a, M: Images> {
    shared: Arc<ServerState<M>>,
    peer: &'a PeerName,
    slot: Slot,
    /// What the client proved, if the stream is encrypted.
    client: Mutex<Option<TlsClient>>,
}

impl<'a, M: Images> TokenAdmission<'a, M> {
    pub(super) fn new(shared: &Arc<ServerState<M>>, peer: &'a PeerName, slot: Slot) -> Self {
        Self {
            shared: Arc::clone(shared),
            peer,
            slot,
            client: Mutex::default(),
        }
    }

    /// Whether the client has shown a good token and not been refused.
    pub(super) fn is_admitted(&self) -> bool {
        self.slot.is_admitted()
    }

    /// Asks the image's actor for access.
    async fn ask_actor(&self, grant: &Grant) -> Result<Admitted<DiskOf<M>>, Refusal> {
        for _ in 0..ATTACH_ATTEMPTS_MAX {
            let (reply, answer) = oneshot::channel();
            let actor = ImageActor::of(&self.shared, grant);
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
    type Disk = DiskOf<M>;

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
