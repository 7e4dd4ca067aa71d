//! One client that speaks NBD: it connects with a token, keeps requests in flight, loses its
//! connection, comes back as the same client or as another one, and is hostile at times.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use madsim::time::{sleep, timeout};
use mvps_core::client::{Client, ClientError};
use mvps_core::engine::{Durability, EngineError, Extent};
use mvps_core::nbd::{Errno, ExportName, Opening, RequestedOptions};
use mvps_core::token::{DurabilityClaim, NewToken};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::connector::{Connector, RECONNECT_PAUSE, SECRET};
use super::request_generator::RequestGenerator;
use crate::environment::machine::{Process, Site};
use crate::environment::wire::WireFaults;
use crate::journal::Choice;
use crate::model::content::Effect;
use crate::model::operation::OperationId;

mod transactions;

/// Whoever was refused so often in a row asks less often: an opening that is refused is a whole one.
const MANY_REFUSALS: u32 = 200;

/// Tokens expire in the year 2096.
const EXPIRES: u64 = 4_000_000_000;

/// Most requests that one client sends at once.
const BURST_MAX: u64 = 6;

/// A handshake takes no longer than this: opening the image, with everything that may be in the
/// way, does not count for the server, but clients have no patience for ever.
const CONNECT_PATIENCE: Duration = Duration::from_mins(20);

/// Of a status of `base:allocation` (NBD protocol, "Metadata querying").
const READS_AS_ZEROES: u64 = 2;

/// A client that speaks NBD.
pub struct NbdClient {
    pub(super) generator: RequestGenerator,
    process: Process,
    connector: Connector,
    /// It names itself, so that its next connection replaces this one.
    named: bool,
    /// What FLUSH and FUA promise it.
    pub(super) durability: Durability,
    connections: u64,
    /// Requests whose fate it does not know.
    unknown: Vec<OperationId>,
}

impl NbdClient {
    /// Client `number` of the server that runs on `process`.
    #[must_use]
    pub fn new(
        site: &Arc<Site>,
        process: &Process,
        number: u64,
        connector: Connector,
        strict: bool,
    ) -> Self {
        let generator = RequestGenerator::new(site, &process.name, number, strict);
        Self {
            named: generator.random.chance(500),
            durability: generator.durability(),
            generator,
            process: process.clone(),
            connector,
            connections: 0,
            unknown: Vec::new(),
        }
    }

    /// Connects again and again, and sends requests, until `stop` or until the image fails.
    pub async fn run(mut self, stop: watch::Receiver<bool>) {
        let mut earlier: Option<Client> = None;
        let mut refused = 0_u32;
        while !*stop.borrow() {
            if self
                .generator
                .random
                .chance(self.generator.site.plan.hostile)
                && !self.generator.strict
            {
                self.be_hostile().await;
            }
            let connected = timeout(CONNECT_PATIENCE, self.connect()).await;
            // What was left open until now, the server has ended, if it knew us.
            drop(earlier.take());
            let mut client = match connected {
                Ok(Ok(client)) => client,
                outcome => {
                    self.generator
                        .note(format_args!("not connected: {outcome:?}"));
                    refused += 1;
                    let times = if refused > MANY_REFUSALS { 20 } else { 1 };
                    sleep(RECONNECT_PAUSE * times).await;
                    continue;
                }
            };
            refused = 0;
            match self.use_connection(&mut client, &stop).await {
                Err(error) if is_final(&error) => return,
                Err(_) => {}
                Ok(()) if *stop.borrow() => {
                    client.disconnect().await;
                    return;
                }
                // It leaves its connection behind, with whatever is under way.
                Ok(()) => earlier = Some(client),
            }
        }
    }

    fn token(&self) -> ExportName {
        let site = &self.generator.site;
        let page = site.plan.page_size.bytes() as u64;
        // Whoever comes later may ask for a larger image.
        let growth = if site.plan.grows {
            self.connections.min(4) * 8 * page
        } else {
            0
        };
        let token = NewToken {
            page_size_bits: Some(site.plan.page_size.bits()),
            image_size: Some(site.plan.size_bytes() + growth),
            client_id: self
                .named
                .then(|| self.generator.name.replace(['/', ':'], "-")),
            durability: Some(match self.durability {
                Durability::Local => DurabilityClaim::Local,
                Durability::ObjectStore => DurabilityClaim::ObjectStore,
            }),
            ..NewToken::new(&site.image, EXPIRES)
        };
        let now = self.process.environment.clock.wall();
        let signed = token.sign(SECRET, now).expect("a token that is admitted");
        ExportName::new(signed).expect("a token fits")
    }

    fn faults(&self) -> WireFaults {
        let random = &self.generator.random;
        if self.generator.strict {
            return WireFaults::default();
        }
        WireFaults {
            split: random.pick(&[0, 0, 300]),
            cut_after: random
                .chance(self.generator.site.plan.cuts)
                .then(|| random.within(1..1 << 18)),
        }
    }

    async fn connect(&mut self) -> Result<Client, ClientError> {
        self.connections += 1;
        let name = format!("{}.{}", self.generator.name, self.connections);
        let (site, faults) = (Arc::clone(&self.generator.site), self.faults());
        let random = crate::random::RandomStream::new(site.plan.seed, &format!("wire {name}"));
        let end = self.connector.connect(&site, &name, faults, random).await;
        let end = end.ok_or(ClientError::Lost)?;
        let opening = if self.generator.random.chance(800) {
            Opening::Go
        } else {
            Opening::ExportName { no_zeroes: true }
        };
        let options = match opening {
            Opening::Go if site.plan.areas.is_sparse() || self.generator.aside.chance(500) => {
                RequestedOptions::everything()
            }
            opening => opening.into(),
        };
        let spawner = &*self.process.environment.spawner;
        let client = Client::connect(end, self.token(), options, spawner).await?;
        let model = &self.generator.site.model;
        model.size_told(&self.generator.server, client.export().size_bytes);
        self.generator.note(format_args!("connected as {name}"));
        if self.named {
            // The one before was ended first: nothing of it can take effect any more.
            if !self.unknown.is_empty() {
                let journal = &self.generator.site.journal;
                journal.fault(&name, "nbd: replaced with requests in flight");
            }
            for id in self.unknown.drain(..) {
                self.generator.site.model.over(id);
            }
        }
        Ok(client)
    }

    /// Sends requests until something happens to the connection.
    async fn use_connection(
        &mut self,
        client: &mut Client,
        stop: &watch::Receiver<bool>,
    ) -> Result<(), ClientError> {
        while !*stop.borrow() {
            let what = self.generator.random.weighted(&[70, 10, self.leaving()]);
            let outcome = match what {
                _ if !self.generator.site.journal.happens(Choice::Operation) => Ok(()),
                0 => self.step(client).await,
                1 => self.burst(client).await,
                _ => {
                    self.leave_behind(client).await;
                    return Ok(());
                }
            };
            if let Err(error) = outcome {
                self.generator.note(format_args!("{error}"));
                assert!(
                    !self.generator.strict || matches!(error, ClientError::Lost),
                    "oracle 11 (liveness): {} meets {error}",
                    self.generator.name
                );
                if !matches!(error, ClientError::Failed(Errno::Io)) {
                    return Err(error);
                }
            }
            sleep(self.generator.think()).await;
        }
        Ok(())
    }

    fn leaving(&self) -> u64 {
        if self.generator.strict {
            0
        } else {
            self.generator.site.plan.leaving
        }
    }

    async fn step(&mut self, client: &mut Client) -> Result<(), ClientError> {
        let operations = &self.generator.site.plan.operations;
        let weights = [
            operations.write,
            operations.unaligned,
            operations.read,
            operations.trim,
            operations.zero,
            operations.flush,
            operations.transaction,
        ];
        match self.generator.random.weighted(&weights) {
            0 => {
                self.change(client, |generator, id| generator.write(id))
                    .await
            }
            1 => {
                self.change(client, |generator, id| generator.unaligned(id))
                    .await
            }
            2 => self.read(client).await,
            3 => self.change(client, |generator, _| generator.trim()).await,
            4 => self.change(client, |generator, _| generator.zero()).await,
            5 => self.flush(client).await,
            _ => self.transact(client).await,
        }
    }

    async fn change(
        &mut self,
        client: &Client,
        effect: impl FnOnce(&RequestGenerator, OperationId) -> Effect,
    ) -> Result<(), ClientError> {
        let (id, effect, durable) = self.submit(effect);
        let outcome = send(client, &effect, durable).await;
        self.answered(id, durable.then_some(self.durability), outcome)
    }

    fn submit(
        &self,
        effect: impl FnOnce(&RequestGenerator, OperationId) -> Effect,
    ) -> (OperationId, Effect, bool) {
        let (generator, model) = (&self.generator, &self.generator.site.model);
        let id = model.next_operation();
        let effect = effect(generator, id);
        let durable = generator.random.chance(generator.site.plan.durable);
        let brief = super::client::brief(&effect);
        generator.note(format_args!("{} {brief} {durable}", id.0));
        model.submitted(id, &generator.server, vec![effect.clone()]);
        (id, effect, durable)
    }

    /// Several requests at once on one connection.
    async fn burst(&mut self, client: &Client) -> Result<(), ClientError> {
        let count = self.generator.random.within(2..BURST_MAX);
        let requests: Vec<_> = (0..count)
            .map(|_| self.submit(|generator, id| generator.unaligned(id)))
            .collect();
        // Each answer counts from when it comes, and some wait for the object store.
        let sent = requests.iter().map(|(id, effect, durable)| async {
            let outcome = send(client, effect, *durable).await;
            self.tell(*id, durable.then_some(self.durability), &outcome);
            outcome
        });
        let outcomes = join_all(sent).await;
        let mut worst = Ok(());
        for ((id, ..), outcome) in requests.iter().zip(outcomes) {
            worst = self.heard(*id, outcome).and(worst);
        }
        worst
    }

    /// Sends some requests, and does not wait for the answers.
    async fn leave_behind(&mut self, client: &Client) {
        let requests: Vec<_> = (0..self.generator.random.within(1..BURST_MAX))
            .map(|_| self.submit(|generator, id| generator.unaligned(id)))
            .collect();
        let sent = requests
            .iter()
            .map(|(_, effect, durable)| send(client, effect, *durable));
        let patience = self
            .generator
            .random
            .duration(Duration::from_micros(10), Duration::from_millis(50));
        // Answered or not: nobody looks.
        let _ = timeout(patience, join_all(sent)).await;
        self.generator.note(format_args!("goes away"));
        self.unknown.extend(requests.iter().map(|(id, ..)| *id));
    }

    async fn read(&self, client: &Client) -> Result<(), ClientError> {
        let (offset, length) = self.generator.range();
        let (site, server) = (&self.generator.site, &self.generator.server);
        let window = site.model.read_sent(server);
        let length = u32::try_from(length).expect("a small request");
        let bytes = client.read(offset, length).await?;
        self.generator.note(format_args!("read {offset}+{length}"));
        site.model.read_returned(server, window, offset, &bytes);
        if !client.export().contexts.is_empty() {
            self.ask_status(client, offset, u64::from(length)).await?;
        }
        Ok(())
    }

    /// Asks what of a range has content, and to have it near.
    async fn ask_status(
        &self,
        client: &Client,
        offset: u64,
        length: u64,
    ) -> Result<(), ClientError> {
        let (site, server) = (&self.generator.site, &self.generator.server);
        let window = site.model.read_sent(server);
        let one = self.generator.random.chance(300);
        let status = client.block_status(offset, length, one).await?;
        self.generator
            .note(format_args!("status {offset}+{length}"));
        let allocation = status.first().expect("one context was selected");
        let extents = allocation.extents.iter().map(|it| Extent {
            length_bytes: it.length_bytes,
            is_set: it.flags & READS_AS_ZEROES == 0,
        });
        let extents: Vec<Extent> = extents.collect();
        site.model
            .extents_returned(server, window, offset, &extents);
        site.journal.mark("a status was asked for over NBD");
        client.cache(offset, length).await
    }

    async fn flush(&mut self, client: &Client) -> Result<(), ClientError> {
        let id = self.generator.site.model.next_operation();
        self.generator.note(format_args!("{} flush", id.0));
        self.generator
            .site
            .model
            .flush_sent(id, &self.generator.server);
        let outcome = client.flush().await;
        self.answered(id, Some(self.durability), outcome)
    }

    /// The server answered, or did not.
    pub(super) fn answered(
        &mut self,
        id: OperationId,
        when: Option<Durability>,
        outcome: Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        self.tell(id, when, &outcome);
        self.heard(id, outcome)
    }

    /// Tells the model what the server said.
    fn tell(&self, id: OperationId, when: Option<Durability>, said: &Result<(), ClientError>) {
        let model = &self.generator.site.model;
        match said {
            Ok(()) => {
                self.generator.note(format_args!("{} ok", id.0));
                model.acknowledged(id, when);
            }
            Err(ClientError::Lost) => {}
            Err(error) => model.refused(id, &meant(error)),
        }
    }

    /// Remembers what was not answered.
    fn heard(
        &mut self,
        id: OperationId,
        outcome: Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        if matches!(outcome, Err(ClientError::Lost)) {
            self.unknown.push(id);
        }
        outcome
    }

    /// Bytes that are no NBD, or NBD that goes wrong half way.
    async fn be_hostile(&mut self) {
        let site = Arc::clone(&self.generator.site);
        let name = format!("{}.hostile", self.generator.name);
        site.journal.fault(&name, "nbd: hostile bytes");
        let random = crate::random::RandomStream::new(self.generator.random.bits(), "hostile");
        let faults = WireFaults::default();
        let end = self.connector.connect(&site, &name, faults, random).await;
        let Some(mut end) = end else { return };
        let random = &self.generator.random;
        let mut bytes = Vec::new();
        if random.chance(700) {
            // Client flags, then an option: 1 to 9, of some length.
            bytes.extend_from_slice(&[0, 0, 0, 3]);
            bytes.extend_from_slice(b"IHAVEOPT");
            let option = u32::try_from(random.within(1..10)).expect("small");
            bytes.extend_from_slice(&option.to_be_bytes());
            let length = random.pick(&[0, 5, 64, u32::MAX]);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
        bytes.extend((0..random.below(600)).map(|_| random.bits().to_le_bytes()[0]));
        let talk = async {
            // The server may hang up at any point.
            let _ = end.write_all(&bytes).await;
            let mut answer = [0; 256];
            while matches!(end.read(&mut answer).await, Ok(1..)) {}
        };
        let _ = timeout(Duration::from_secs(1), talk).await;
    }
}

async fn send(client: &Client, effect: &Effect, durable: bool) -> Result<(), ClientError> {
    match effect {
        Effect::Write(offset, data) => client.write(*offset, Bytes::clone(data), durable).await,
        Effect::Zero(offset, bytes) => client.write_zeroes(*offset, *bytes, durable).await,
        Effect::Trim(offset, bytes) => client.trim(*offset, *bytes, durable).await,
    }
}

/// What the engine may have meant.
fn meant(error: &ClientError) -> EngineError {
    match error {
        ClientError::Conflict | ClientError::Failed(Errno::Permission) => EngineError::Aborted {
            reason: "the server answered EPERM",
        },
        ClientError::Failed(Errno::OutOfMemory) => EngineError::TransactionTooLarge {
            limit: "the server answered ENOMEM",
        },
        ClientError::Failed(Errno::Invalid) | ClientError::TooLarge { .. } => {
            EngineError::Invalid {
                reason: "the server answered EINVAL",
            }
        }
        ClientError::Failed(Errno::Io) => EngineError::Unreadable {
            reason: "the server answered EIO".to_owned(),
        },
        _ => EngineError::Closed,
    }
}

/// Whether the server is of no more use.
fn is_final(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Failed(Errno::Shutdown | Errno::NoSpace) | ClientError::Broken(_)
    )
}
