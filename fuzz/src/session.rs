//! A whole server on the engine, in memory: two clients of one image, a third that sends garbage
//! to another one, checkpoints, disconnections, and an image that is closed and opened again. The
//! first client speaks what the input says, the second one all that the protocol has.
//!
//! Oracle: a byte array. Requests are answered one by one, so after each of them it says what every
//! read must be, where nothing but zeroes may be said to be, and what must be said to have changed
//! since a version at which the array was remembered. A transaction must commit if nobody committed
//! anything since it began, and may only commit if everything it read is still so.

use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use mvps_core::client::{Client, ClientError};
use mvps_core::engine::EngineConfig;
use mvps_core::env::{Clock as _, PeerName};
use mvps_core::ids::ImageId;
use mvps_core::nbd::{ExportName, Framing, Opening, RequestedOptions};
use mvps_core::session::{EngineImages, OpenImage as _, Server, ServerConfig};
use mvps_core::token::{NewToken, TokenKeys};

use crate::disk::Change;
use crate::stream::Script;
use crate::world::{Tasks, World, settle};

mod capture;
mod request;

use request::{Request, change_of, index, plain};

const PAGE_BYTES: u64 = 4096;
const SIZE_BYTES: u64 = 16 * PAGE_BYTES;
const SECRET: &[u8] = b"a secret of these targets";
const EXPIRES: u64 = 1_900_000_000;
const PIPE_BYTES: usize = 16 * 1024;
const STEPS_MAX: usize = 64;

#[derive(Debug, Arbitrary)]
enum TransactionStep {
    Own(Request),
    DeletePage(u8),
    Lock,
    Other(Request),
    Checkpoint,
}

#[derive(Debug, Arbitrary)]
enum Step {
    First(Request),
    Second(Request),
    Transaction(Vec<TransactionStep>, End),
    Checkpoint,
    Reconnect,
    /// The second client comes back in order to be told what changes from now on.
    Compare,
    Reopen,
    Garbage(Vec<u8>),
    /// Requests of both clients at once, in pages of their own.
    Together(Vec<(u8, u8)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
enum End {
    Commit,
    DurableCommit,
    RollBack,
    Drop,
}

/// One input. The first byte says what follows: steps, or requests as a client sends them, which
/// the first client makes, or both by turns; and how the first client speaks.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let captured = match first % 4 {
        1 => capture::steps(rest, false),
        3 => capture::steps(rest, true),
        _ => Vec::new(),
    };
    let mut captured = captured.into_iter();
    let mut input = Unstructured::new(if first % 2 == 0 { rest } else { &[] });
    let mut world = World::new();
    let host = world.host();
    let config = EngineConfig {
        // Sealing happens while writes go on.
        checkpoint_bytes: 32 * 1024,
        ..EngineConfig::default()
    };
    let server = Server::new(
        Arc::new(world.clock.clone()),
        Arc::new(world.tasks.clone()),
        EngineImages::new(host, config),
        TokenKeys::from_secret(SECRET).expect("a secret"),
        ServerConfig::default(),
    );
    let tasks = world.tasks.clone();
    let clock = world.clock.clone();
    world.run(async move {
        let options = match first / 4 % 4 {
            0 => RequestedOptions::from(Opening::Go),
            1 => RequestedOptions::from(Opening::ExportName { no_zeroes: false }),
            2 => RequestedOptions {
                framing: Framing::Structured,
                ..RequestedOptions::everything()
            },
            _ => RequestedOptions::everything(),
        };
        let mut play = Play::begin(server, tasks, options).await;
        for _ in 0..STEPS_MAX {
            let step = match captured.next() {
                Some(step) => step,
                None if input.is_empty() => break,
                None => match Step::arbitrary(&mut input) {
                    Ok(step) => step,
                    Err(_) => break,
                },
            };
            play.step(step, &clock).await;
        }
        play.end().await;
    });
}

struct Play {
    server: Server<EngineImages>,
    tasks: Tasks,
    content: Vec<u8>,
    clients: [Option<Client>; 2],
    /// How the first client speaks.
    options: RequestedOptions,
    /// The context that tells the second client what changed, and what was there then.
    earlier: Option<(String, Vec<u8>)>,
}

fn token(image: &str) -> ExportName {
    let image = ImageId::parse(image).expect("a valid name");
    let mut token = NewToken::new(&image, EXPIRES);
    token.image_size = Some(SIZE_BYTES);
    let now = mvps_core::env::WallTime { unix_ms: 0 };
    let text = token.sign(SECRET, now).expect("good claims");
    ExportName::new(text).expect("it is short")
}

impl Play {
    async fn begin(server: Server<EngineImages>, tasks: Tasks, options: RequestedOptions) -> Self {
        let content = vec![0; usize::try_from(SIZE_BYTES).expect("it is small")];
        let mut play = Self {
            server,
            tasks,
            content,
            clients: [None, None],
            options,
            earlier: None,
        };
        play.connect(0).await;
        play.connect(1).await;
        play
    }

    fn stream(&self) -> tokio::io::DuplexStream {
        use mvps_core::env::Spawner as _;
        let (stream, served) = tokio::io::duplex(PIPE_BYTES);
        let server = self.server.clone();
        let serving = async move {
            server
                .serve_connection(served, &PeerName("fuzz".to_owned()))
                .await;
        };
        self.tasks.spawn("serving", Box::pin(serving));
        stream
    }

    async fn connect(&mut self, which: usize) {
        let mut options = match which {
            0 => self.options.clone(),
            _ => RequestedOptions::everything(),
        };
        if let (1, Some((context, _))) = (which, &self.earlier) {
            options.contexts.push(context.clone());
        }
        let asked = options.contexts.len();
        let client = Client::connect(self.stream(), token("disk0"), options, &self.tasks).await;
        let client = client.expect("a good token");
        assert_eq!(
            client.export().contexts.len(),
            asked,
            "a context is missing"
        );
        self.clients[which] = Some(client);
    }

    /// Remembers the content of what is now the newest version.
    async fn compare(&mut self) {
        self.checkpoint().await;
        let listed = vec!["mvps:changed-since:".to_owned()];
        let listed = Client::list_contexts(self.stream(), token("disk0"), listed).await;
        let version = |name: &String| name.rsplit(':').next()?.parse::<u64>().ok();
        let listed = listed.expect("a good token");
        // Nothing is published before the first change.
        if let Some(newest) = listed.into_iter().max_by_key(version) {
            self.earlier = Some((newest, self.content.clone()));
        }
        let client = self.clients[1].take().expect("connected between steps");
        client.disconnect().await;
        self.connect(1).await;
    }

    fn client(&self, which: usize) -> &Client {
        self.clients[which]
            .as_ref()
            .expect("connected between steps")
    }

    async fn step(&mut self, step: Step, clock: &mvps_core::env::memory::ManualClock) {
        match step {
            Step::First(request) => {
                let earlier = self.earlier.as_ref();
                plain(
                    self.clients[0].as_ref(),
                    &mut self.content,
                    earlier,
                    &request,
                )
                .await;
            }
            Step::Second(request) => {
                let earlier = self.earlier.as_ref();
                plain(
                    self.clients[1].as_ref(),
                    &mut self.content,
                    earlier,
                    &request,
                )
                .await;
            }
            Step::Transaction(steps, end) => self.transaction(&steps, end).await,
            Step::Checkpoint => self.checkpoint().await,
            Step::Reconnect => {
                let client = self.clients[0].take().expect("connected between steps");
                client.abort().await;
                self.connect(0).await;
            }
            Step::Compare => self.compare().await,
            Step::Reopen => {
                for client in &mut self.clients {
                    client
                        .take()
                        .expect("connected between steps")
                        .disconnect()
                        .await;
                }
                clock.sleep(Duration::from_secs(90)).await;
                assert!(
                    self.server.image_ids().is_empty(),
                    "an idle image is closed"
                );
                self.connect(0).await;
                self.connect(1).await;
            }
            Step::Garbage(bytes) => self.garbage(bytes).await,
            Step::Together(writes) => self.together(&writes).await,
        }
    }

    async fn checkpoint(&self) {
        let image = ImageId::parse("disk0").expect("a valid name");
        let image = self.server.image(&image).await.expect("it is open");
        image.checkpoint().await.expect("nothing fails here");
    }

    /// Another image's client: a good token, then anything.
    async fn garbage(&self, bytes: Vec<u8>) {
        let name = token("disk1");
        let name = name.reveal().as_bytes();
        let name_bytes = u32::try_from(name.len()).expect("it is short");
        let mut sent = vec![0, 0, 0, 3];
        sent.extend_from_slice(b"IHAVEOPT\0\0\0\x01");
        sent.extend_from_slice(&name_bytes.to_be_bytes());
        sent.extend_from_slice(name);
        sent.extend_from_slice(&bytes);
        let (stream, _) = Script::new(sent, &[]);
        self.server
            .serve_connection(stream, &PeerName("garbage".to_owned()))
            .await;
    }

    /// Writes of single pages, odd ones of the first client, even ones of the second, all at once.
    async fn together(&mut self, writes: &[(u8, u8)]) {
        let pages = SIZE_BYTES / PAGE_BYTES;
        let mut last = std::collections::BTreeMap::new();
        for (page, byte) in writes.iter().take(32) {
            last.insert(u64::from(*page) % pages, *byte);
        }
        let page_bytes = usize::try_from(PAGE_BYTES).expect("it is small");
        let requests = last.iter().map(|(page, byte)| {
            let client = self.client(usize::from(page % 2 == 0));
            client.write(page * PAGE_BYTES, vec![*byte; page_bytes].into(), false)
        });
        for written in futures_util::future::join_all(requests).await {
            written.expect("a write within the image");
        }
        for (page, byte) in last {
            let data = Bytes::from(vec![byte; page_bytes]);
            Change::Write(page * PAGE_BYTES, data).apply(&mut self.content);
        }
    }

    async fn transaction(&mut self, steps: &[TransactionStep], end: End) {
        let image = ImageId::parse("disk0").expect("a valid name");
        let image = self.server.image(&image).await.expect("it is open");
        let [Some(first), second] = &mut self.clients else {
            panic!("connected between steps");
        };
        let content = &mut self.content;
        let earlier = self.earlier.as_ref();
        let transaction = first.begin().await.expect("a transaction can begin");
        let mut view = content.clone();
        let mut changes: Vec<Change> = Vec::new();
        // Pages that were read, as they were.
        let mut seen = std::collections::BTreeMap::new();
        let (mut others_committed, mut doomed, mut locked) = (false, false, false);
        for step in steps.iter().take(16) {
            match step {
                TransactionStep::Own(Request::Read(range)) => {
                    let (offset, length) = range.clamped();
                    note(&mut seen, &view, &changes, offset, u64::from(length));
                    match transaction.read(offset, length).await {
                        Ok(found) => assert!(found[..] == view[index(offset)..][..length as usize]),
                        Err(error) => {
                            assert_eq!(error, ClientError::Conflict);
                            doomed = true;
                        }
                    }
                }
                TransactionStep::Own(
                    Request::Flush | Request::Status(..) | Request::Prefetch(_),
                ) => {}
                TransactionStep::Own(request) => {
                    let change = change_of(request);
                    let done = match &change {
                        Change::Write(offset, data) if data.is_empty() => {
                            // An empty write would delete the page.
                            let _ = offset;
                            continue;
                        }
                        Change::Write(offset, data) => {
                            transaction.write(*offset, data.clone()).await
                        }
                        Change::Zero(offset, length) => {
                            transaction.write_zeroes(*offset, *length).await
                        }
                        Change::Trim(offset, length) => transaction.trim(*offset, *length).await,
                    };
                    doomed |= failed(done);
                    change.apply(&mut view);
                    changes.push(change);
                }
                TransactionStep::DeletePage(page) => {
                    let offset = u64::from(*page) * PAGE_BYTES % SIZE_BYTES;
                    doomed |= failed(transaction.delete_page(offset).await);
                    let change = Change::Trim(offset, PAGE_BYTES);
                    change.apply(&mut view);
                    changes.push(change);
                }
                TransactionStep::Lock => {
                    if failed(transaction.lock().await) {
                        assert!(others_committed, "a lock failed though nobody committed");
                        doomed = true;
                    } else if !locked && !doomed {
                        // It goes on with the newest content below its own changes.
                        locked = true;
                        view.clone_from(content);
                        for change in &changes {
                            change.apply(&mut view);
                        }
                    }
                }
                // Another client's change would wait for the lock to end.
                TransactionStep::Other(request) if !locked => {
                    others_committed |= plain(second.as_ref(), content, earlier, request).await;
                }
                TransactionStep::Other(_) => {}
                TransactionStep::Checkpoint => {
                    image.checkpoint().await.expect("nothing fails here");
                }
            }
        }
        match end {
            End::RollBack => transaction
                .roll_back()
                .await
                .expect("it can be rolled back"),
            End::Drop => drop(transaction),
            End::Commit | End::DurableCommit => {
                match transaction.commit(end == End::DurableCommit).await {
                    Ok(()) => {
                        assert!(!doomed, "a doomed transaction committed");
                        for (page, then) in &seen {
                            let now = &content[index(page * PAGE_BYTES)..][..then.len()];
                            assert!(now == &then[..], "page {page} changed since it was read");
                        }
                        for change in &changes {
                            change.apply(content);
                        }
                    }
                    Err(error) => {
                        assert_eq!(error, ClientError::Conflict);
                        assert!(doomed || others_committed, "a conflict with nobody");
                        assert!(!locked || doomed, "a conflict under the lock");
                    }
                }
            }
        }
        settle().await;
    }

    async fn end(mut self) {
        let length = u32::try_from(SIZE_BYTES).expect("it is small");
        for which in 0..2 {
            let found = self.client(which).read(0, length).await.expect("all of it");
            assert!(
                found[..] == self.content,
                "client {which} reads something else"
            );
        }
        for client in &mut self.clients {
            client.take().expect("connected").disconnect().await;
        }
        self.server.shut_down().await;
        assert_eq!(self.server.connections(), 0, "connections are left");
    }
}

/// Whether it failed, which only a conflict may make it.
fn failed(done: Result<(), ClientError>) -> bool {
    match done {
        Ok(()) => false,
        Err(ClientError::Conflict) => true,
        Err(error) => panic!("{error}"),
    }
}

/// Remembers pages that are read from the view for the first time, and not only own writes.
fn note(
    seen: &mut std::collections::BTreeMap<u64, Vec<u8>>,
    view: &[u8],
    changes: &[Change],
    offset: u64,
    length: u64,
) {
    if length == 0 || !changes.is_empty() {
        // What it wrote itself it may read without looking at anybody else's.
        return;
    }
    for page in offset / PAGE_BYTES..(offset + length).div_ceil(PAGE_BYTES) {
        let content = &view[index(page * PAGE_BYTES)..][..index(PAGE_BYTES)];
        seen.entry(page).or_insert_with(|| content.to_vec());
    }
}
