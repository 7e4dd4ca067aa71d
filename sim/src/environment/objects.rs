//! The object store: a service on a node of its own.
//!
//! Every request is a task of the store's node that answers through a channel. A client that timed
//! out, died or was paused leaves a request that may still land, minutes or hours later.
//!
//! Invariant: whatever changes the store is shown to the landing oracle at that instant.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use madsim::runtime::NodeHandle;
use madsim::time::sleep;
use mvps_core::env::memory::MemoryObjectStore;
use mvps_core::env::{GetRange, OperationKind, StoreError};
use tokio::sync::oneshot;

use super::fate::{self, Fate};
use super::request::{Answer, Request};
use super::store_frontend::{Reply, RequestHandler, StoreFrontend};
use super::tripwire::Tripwire;
use crate::journal::{self, Choice, Journal};
use crate::model::machine_of;
use crate::plan::{StoreFaults, StoreProfile};
use crate::random::RandomStream;

mod damage;

/// Sees every change of the store at the instant it happens.
pub trait LandingOracle: Send + Sync {
    /// `request` of `client` changed the store.
    fn landed(&self, client: &str, request: &Request, contents: &MemoryObjectStore);

    /// `client` reads `key`, which does not exist, and waits for it.
    fn missing(&self, client: &str, key: &str);

    /// `client` got no good answer.
    fn trouble(&self, client: &str);

    /// Somebody gets bytes that are not those that were stored.
    fn damaged(&self);
}

/// The object store: it carries out what its clients send.
pub struct StoreService {
    contents: Arc<MemoryObjectStore>,
    node: NodeHandle,
    journal: Journal,
    random: RandomStream,
    oracle: Arc<dyn LandingOracle>,
    profile: StoreProfile,
    active: Mutex<ActiveFaults>,
    /// Keys that were created lately, and when: what a stale listing leaves out.
    recent: Mutex<VecDeque<(Duration, String)>>,
}

#[derive(Default)]
struct ActiveFaults {
    rates: StoreFaults,
    /// Nobody reaches the store before this time.
    outage_until: Duration,
    /// Machines that do not reach the store before a time.
    cut_off: BTreeMap<String, Duration>,
}

impl StoreService {
    /// A store without objects.
    #[must_use]
    pub fn new(
        node: NodeHandle,
        journal: Journal,
        random: RandomStream,
        (rates, profile): (StoreFaults, StoreProfile),
        oracle: Arc<dyn LandingOracle>,
    ) -> Arc<Self> {
        let active = ActiveFaults {
            rates,
            ..ActiveFaults::default()
        };
        let contents = MemoryObjectStore::new();
        contents.allow_small_parts();
        if profile.bandwidth.is_some() {
            journal.fault("store", "store: narrow");
        }
        Arc::new(Self {
            contents: Arc::new(contents),
            node,
            journal,
            random,
            oracle,
            profile,
            active: Mutex::new(active),
            recent: Mutex::default(),
        })
    }

    fn active(&self) -> std::sync::MutexGuard<'_, ActiveFaults> {
        self.active.lock().expect("nothing panics under this lock")
    }

    /// What is stored, past every fault.
    #[must_use]
    pub fn contents(&self) -> Arc<MemoryObjectStore> {
        Arc::clone(&self.contents)
    }

    /// The store as `client` sees it.
    #[must_use]
    pub fn client(self: &Arc<Self>, client: &str, tripwire: &Tripwire) -> SimObjectStore {
        StoreFrontend(StoreClient {
            service: Arc::clone(self),
            client: client.to_owned(),
            tripwire: tripwire.clone(),
        })
    }

    /// Nobody reaches the store for `duration`.
    pub fn outage(&self, duration: Duration) {
        self.journal.fault("store", "store: outage");
        self.active().outage_until = journal::now() + duration;
    }

    /// `client` does not reach the store for `duration`.
    pub fn cut_off(&self, client: &str, duration: Duration) {
        self.journal.fault(client, "store: cut off");
        let until = journal::now() + duration;
        self.active().cut_off.insert(client.to_owned(), until);
    }

    /// No more faults from now on; requests that are under way meet theirs.
    pub fn heal(&self) {
        let mut active = self.active();
        active.rates = StoreFaults::default();
        active.outage_until = Duration::ZERO;
        active.cut_off.clear();
    }

    fn draw_fate(&self, client: &str, request: &Request) -> Fate {
        let now = journal::now();
        let active = self.active();
        let cut_off = active
            .cut_off
            .get(machine_of(client))
            .is_some_and(|until| now < *until);
        let fate = if now < active.outage_until || cut_off {
            if self.random.chance(700) {
                Fate::Refused
            } else {
                Fate::Stalled { applied: false }
            }
        } else {
            let kind = fate::Kind {
                mutates: request.mutates(),
                creates: matches!(request, Request::Create(..)),
                body: matches!(request, Request::Get(..)),
                deletes: matches!(request, Request::Delete(_)),
                completes: matches!(request, Request::CompleteUpload(..)),
            };
            fate::draw(&self.random, &active.rates, kind)
        };
        if fate != Fate::Served && !self.journal.happens(Choice::Fault) {
            return Fate::Served;
        }
        if fate != Fate::Served {
            self.oracle.trouble(client);
        }
        drop(active);
        if let Some(fault) = fate.fault() {
            self.journal.fault(client, fault);
        }
        fate
    }

    async fn apply(&self, client: &str, request: Request) -> Reply {
        let request = self.by_profile(request);
        let changes = request.mutates().then(|| request.clone());
        let (kind, key, bytes) = (
            request.kind(),
            request.key().to_owned(),
            request.body_bytes(),
        );
        let mut reply = request.carry_out(&*self.contents).await;
        if let (OperationKind::List, Ok(Answer::Entries(entries))) = (kind, &mut reply) {
            self.make_stale(entries);
        }
        self.journal.note(
            "store",
            format_args!(
                "{} {key} {bytes} for {client}: {}",
                kind.name(),
                outcome(&reply)
            ),
        );
        if let (Some(request), Ok(_)) = (&changes, &reply) {
            if matches!(kind, OperationKind::CompleteUpload) {
                self.journal.mark("an object was uploaded in parts");
            }
            if self.profile.stale_listings {
                self.recent().push_back((journal::now(), key));
            }
            self.oracle.landed(client, request, &self.contents);
        }
        reply
    }

    async fn serve(self: Arc<Self>, client: String, request: Request, to: oneshot::Sender<Reply>) {
        let fate = self.draw_fate(&client, &request);
        let reads = matches!(request, Request::Get(..));
        sleep(fate::latency(&self.random) + self.transfer(request.body_bytes())).await;
        let reply = match fate {
            Fate::Served => self.apply(&client, request).await,
            Fate::Slow(more) => {
                sleep(more).await;
                self.apply(&client, request).await
            }
            Fate::Refused => unavailable("refused"),
            Fate::ReplyLost => {
                let _ = self.apply(&client, request).await;
                unavailable("reply lost")
            }
            Fate::Late { after, answered } => {
                if answered {
                    // Nobody waits for what comes later.
                    let _ = to.send(unavailable("no answer"));
                    sleep(after).await;
                    let _ = self.apply(&client, request).await;
                    return;
                }
                sleep(after).await;
                self.apply(&client, request).await
            }
            Fate::Twice(after) => {
                let reply = self.apply(&client, request.clone()).await;
                sleep(fate::latency(&self.random)).await;
                let _ = to.send(reply);
                sleep(after).await;
                let _ = self.apply(&client, request).await;
                return;
            }
            Fate::Stalled { applied } => {
                if applied {
                    let _ = self.apply(&client, request).await;
                }
                // The connection stays open; the client has to give up.
                std::future::pending().await
            }
            Fate::SlowDown => Err(StoreError::SlowDown {
                reason: "simulated".to_owned(),
            }),
            Fate::Conflict => unavailable("409"),
            Fate::BodyStalled => std::future::pending().await,
            Fate::Truncated => match self.apply(&client, request.clone()).await {
                // The length of a range is known, so its reader has to see that it is short.
                Ok(Answer::Body(body))
                    if matches!(request, Request::Get(_, GetRange::Bytes(_))) =>
                {
                    let length = self.random.below(body.len() as u64);
                    Ok(Answer::Body(body.slice(..length as usize)))
                }
                Ok(Answer::Body(_)) => Err(StoreError::Corrupt {
                    key: String::new(),
                    reason: "the body ended early".to_owned(),
                }),
                other => other,
            },
            Fate::BitFlip => match self.apply(&client, request).await {
                Ok(Answer::Body(body)) => Ok(Answer::Body(self.flip(&body))),
                other => other,
            },
            Fate::WrongObject => {
                let other = self.other_object(&client, &request);
                match self.apply(&client, request).await {
                    Ok(Answer::Body(body)) => Ok(Answer::Body(other.unwrap_or(body))),
                    other => other,
                }
            }
            Fate::PartialDelete => self.delete_some(&client, request).await,
            Fate::CompletionFails { applied } => {
                if applied {
                    let _ = self.apply(&client, request).await;
                }
                unavailable("InternalError")
            }
        };
        let bytes = match &reply {
            Ok(Answer::Body(body)) => body.len(),
            Err(StoreError::NotFound { key }) if reads && !to.is_closed() => {
                self.oracle.missing(&client, key);
                0
            }
            _ => 0,
        };
        sleep(fate::latency(&self.random) + self.transfer(bytes)).await;
        // A client that gave up does not wait any more.
        let _ = to.send(reply);
    }
}

fn unavailable(reason: &str) -> Reply {
    Err(StoreError::Unavailable {
        reason: reason.to_owned(),
    })
}

fn outcome(reply: &Reply) -> String {
    match reply {
        Ok(Answer::Body(body)) => format!("{} bytes", body.len()),
        Ok(Answer::Entries(entries)) => entries
            .first()
            .map_or("nothing".to_owned(), |entry| format!("{}…", entry.key)),
        Ok(_) => "ok".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// The store as one client sees it.
pub type SimObjectStore = StoreFrontend<StoreClient>;

/// Sends each request of one client to the service, which carries it out on its own node.
pub struct StoreClient {
    service: Arc<StoreService>,
    client: String,
    tripwire: Tripwire,
}

#[async_trait]
impl RequestHandler for StoreClient {
    async fn handle(&self, request: Request) -> Reply {
        let call = tripwire_name(&request);
        self.tripwire.pass(&self.client, call).await;
        let (to, reply) = oneshot::channel();
        let service = Arc::clone(&self.service);
        let task = service.serve(self.client.clone(), request, to);
        self.service.node.spawn(task);
        let reply = reply.await;
        self.tripwire.pass(&self.client, call).await;
        match reply {
            Ok(reply) => reply,
            Err(_) => unavailable("connection closed"),
        }
    }
}

fn tripwire_name(request: &Request) -> &'static str {
    match request {
        Request::Put(..) => "crash: at a put",
        Request::Create(..) => "crash: at a create",
        Request::Get(..) => "crash: at a get",
        Request::List(..) | Request::ListFolders(_) | Request::ListUploads(_) => "crash: at a list",
        Request::StartUpload(_)
        | Request::UploadPart(..)
        | Request::CompleteUpload(..)
        | Request::AbortUpload(..) => "crash: at an upload",
        Request::Delete(_) => "crash: at a delete",
    }
}
