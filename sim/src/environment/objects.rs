//! The object store: a service on a node of its own.
//!
//! Every request is a task of the store's node that answers through a channel. A client that timed
//! out, died or was paused leaves a request that may still land, minutes or hours later.
//!
//! Invariant: whatever changes the store is shown to the landing oracle at that instant.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use madsim::runtime::NodeHandle;
use madsim::time::sleep;
use mvps_core::env::memory::MemoryObjectStore;
use mvps_core::env::{OperationKind, StoreError};
use mvps_core::store::retry_policy::try_timeout;
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

    /// `client` got no good answer, or gets none before `until`.
    fn trouble(&self, client: &str, until: Duration);

    /// `caller` sent `request`.
    fn sent(&self, caller: &Caller, request: &Request);

    /// `request` of `caller` is carried out.
    fn carried_out(&self, caller: &Caller, request: &Request);

    /// `caller` gets `reply` to `request`.
    fn answered(&self, caller: &Caller, request: &Request, reply: &Reply);

    /// Somebody gets bytes that are not those that were stored.
    fn damaged(&self);
}

/// One request of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The client: a process.
    pub name: String,
    /// The request's number.
    pub number: u64,
}

/// What becomes of a request, and the fault that it is whatever it finds.
struct Drawn {
    fate: Fate,
    fault: Option<&'static str>,
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
    requests: AtomicU64,
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
        Arc::new(Self {
            contents: Arc::new(contents),
            node,
            journal,
            random,
            oracle,
            profile,
            active: Mutex::new(active),
            recent: Mutex::default(),
            requests: AtomicU64::new(0),
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
        self.journal
            .note("store", format_args!("not reached for {duration:?}"));
        self.active().outage_until = journal::now() + duration;
    }

    /// `client` does not reach the store for `duration`.
    pub fn cut_off(&self, client: &str, duration: Duration) {
        self.journal
            .note(client, format_args!("cut off for {duration:?}"));
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

    fn draw_fate(&self, client: &str, request: &Request) -> Drawn {
        let now = journal::now();
        let active = self.active();
        let cut_off = active
            .cut_off
            .get(machine_of(client))
            .is_some_and(|until| now < *until);
        let unreached = match (now < active.outage_until, cut_off) {
            (true, _) => Some("store: outage"),
            (false, true) => Some("store: cut off"),
            (false, false) => None,
        };
        let fate = if unreached.is_some() {
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
        drop(active);
        let served = Drawn {
            fate: Fate::Served,
            fault: None,
        };
        if fate == Fate::Served || !self.journal.happens(Choice::Fault) {
            return served;
        }
        let patience = try_timeout(request.kind(), request.body_bytes() as u64);
        self.oracle.trouble(client, now + fate.lasts(patience));
        Drawn {
            fate,
            fault: unreached.or(fate.certain_fault()),
        }
    }

    /// Carries `request` out; if that went well, it met `fault`.
    async fn apply_with(&self, fault: &'static str, caller: &Caller, request: Request) -> Reply {
        let reply = self.apply(caller, request).await;
        if reply.is_ok() {
            self.journal.fault(&caller.name, fault);
        }
        reply
    }

    async fn apply(&self, caller: &Caller, request: Request) -> Reply {
        let client = &caller.name;
        self.oracle.carried_out(caller, &request);
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

    async fn serve(self: Arc<Self>, caller: Caller, request: Request, to: oneshot::Sender<Reply>) {
        let Drawn { fate, fault } = self.draw_fate(&caller.name, &request);
        self.oracle.sent(&caller, &request);
        let answer = |to: oneshot::Sender<Reply>, reply: Reply| {
            if !to.is_closed() {
                self.oracle.answered(&caller, &request, &reply);
            }
            // A client that gave up does not wait any more.
            let _ = to.send(reply);
        };
        let client = &caller.name;
        if let Some(fault) = fault {
            self.journal.fault(client, fault);
        }
        let up = self.transfer(client, request.body_bytes());
        sleep(fate::latency(&self.random) + up).await;
        let asked = request.clone();
        let reply = match fate {
            Fate::Served => self.apply(&caller, asked).await,
            Fate::Slow(more) => {
                sleep(more).await;
                self.apply(&caller, asked).await
            }
            Fate::Refused => unavailable("refused"),
            Fate::ReplyLost => {
                let _ = self
                    .apply_with("store: applied, reply lost", &caller, asked)
                    .await;
                unavailable("reply lost")
            }
            Fate::Late { after, answered } => {
                if answered {
                    // Nobody waits for what comes later.
                    answer(to, unavailable("no answer"));
                    sleep(after).await;
                    let _ = self.apply_with("store: applied late", &caller, asked).await;
                    return;
                }
                sleep(after).await;
                self.apply_with("store: applied late", &caller, asked).await
            }
            Fate::Twice(after) => {
                let reply = self.apply(&caller, asked.clone()).await;
                sleep(fate::latency(&self.random)).await;
                answer(to, reply);
                sleep(after).await;
                let _ = self
                    .apply_with("store: applied twice", &caller, asked)
                    .await;
                return;
            }
            Fate::Stalled { applied } => {
                if applied {
                    let _ = self.apply(&caller, asked).await;
                }
                // The connection stays open; the client has to give up.
                std::future::pending().await
            }
            Fate::SlowDown => Err(StoreError::SlowDown {
                reason: "simulated".to_owned(),
            }),
            Fate::Conflict => unavailable("409"),
            Fate::BodyStalled => std::future::pending().await,
            Fate::Truncated => {
                let reply = self.apply(&caller, asked).await;
                self.truncated(client, &request, reply)
            }
            Fate::BitFlip => match self.apply(&caller, asked).await {
                Ok(Answer::Body(body)) => Ok(Answer::Body(self.flip(client, &body))),
                other => other,
            },
            Fate::WrongObject => {
                let other = self.other_object(client, &request);
                match self.apply(&caller, asked).await {
                    Ok(Answer::Body(body)) => Ok(Answer::Body(other.unwrap_or(body))),
                    other => other,
                }
            }
            Fate::PartialDelete => self.delete_some(&caller, asked).await,
            Fate::CompletionFails { applied } => {
                if applied {
                    let _ = self.apply(&caller, asked).await;
                }
                unavailable("InternalError")
            }
        };
        let bytes = match &reply {
            Ok(Answer::Body(body)) => body.len(),
            Err(StoreError::NotFound { key })
                if matches!(request, Request::Get(..)) && !to.is_closed() =>
            {
                self.oracle.missing(client, key);
                0
            }
            _ => 0,
        };
        let down = self.transfer(client, bytes);
        sleep(fate::latency(&self.random) + down).await;
        answer(to, reply);
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
        let caller = Caller {
            name: self.client.clone(),
            number: service.requests.fetch_add(1, Ordering::Relaxed),
        };
        let task = service.serve(caller, request, to);
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
