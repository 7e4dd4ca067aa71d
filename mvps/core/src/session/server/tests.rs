use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::client::{Client, ClientError};
use crate::engine::EngineError;
use crate::env::memory::testing::{TestClock, TestSpawner};
use crate::env::{Address, WallTime};
use crate::ids::{PageSize, Version};
use crate::nbd::{ExportName, Opening, RemoteExport, ServerRefusal};
use crate::protocol::Since;
use crate::session::images::{ImageFacts, OpenFailure, OpenImage};
use crate::session::limits::{
    HALF_OPEN_MAX, HANDSHAKE_TIME_MAX, SETTLE_TIME_MAX, SLOTS_PER_IMAGE_MAX,
};
use crate::session::security::tests::{Veil, Veiling, attach, greet, option, option_reply};
use crate::session::testing::MemoryDisk;
use crate::token::{Grant, NewToken};

const SECRET: &[u8] = b"insecure_token";
const EXPIRES: u64 = 1_900_000_000;
const MIB: u64 = 1024 * 1024;

#[derive(Clone)]
struct MemoryImage {
    disk: MemoryDisk,
    size_bytes: Arc<AtomicU64>,
    unsettled: Arc<AtomicBool>,
    journal: Journal,
}

type Journal = Arc<Mutex<Vec<String>>>;

fn note(journal: &Journal, event: &str) {
    journal.lock().unwrap().push(event.to_owned());
}

impl OpenImage for MemoryImage {
    type Disk = MemoryDisk;

    fn page_size(&self) -> PageSize {
        PageSize::from_bits(12).unwrap()
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    fn attach(&self) -> MemoryDisk {
        self.disk.clone()
    }

    async fn grow(&self, size_bytes: u64) -> Result<(), EngineError> {
        note(&self.journal, "grow");
        self.size_bytes.store(size_bytes, Ordering::Relaxed);
        Ok(())
    }

    async fn checkpoint(&self) -> Result<Version, EngineError> {
        Ok(Version(1))
    }

    async fn is_settled(&self) -> bool {
        !self.unsettled.load(Ordering::Relaxed)
    }

    async fn close(&self) -> Result<(), EngineError> {
        note(&self.journal, "close");
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    }
}

struct MemoryImages {
    disk: MemoryDisk,
    size_bytes: Arc<AtomicU64>,
    unsettled: Arc<AtomicBool>,
    journal: Journal,
}

impl Images for MemoryImages {
    type Image = MemoryImage;

    async fn open(&self, grant: &Grant) -> Result<MemoryImage, OpenFailure> {
        note(&self.journal, "open");
        tokio::time::sleep(Duration::from_secs(1)).await;
        if grant.image.as_str() == "stuck" {
            std::future::pending::<()>().await;
        }
        if grant.image.as_str() == "broken" {
            let reason = "secret reason".to_owned();
            return Err(OpenFailure { reason, told: None });
        }
        Ok(MemoryImage {
            disk: self.disk.clone(),
            size_bytes: Arc::clone(&self.size_bytes),
            unsettled: Arc::clone(&self.unsettled),
            journal: Arc::clone(&self.journal),
        })
    }

    async fn look(&self, grant: &Grant) -> Result<Option<ImageFacts>, OpenFailure> {
        let facts = ImageFacts {
            size_bytes: self.size_bytes.load(Ordering::Relaxed),
            page_size: PageSize::from_bits(12).unwrap(),
        };
        Ok((grant.image.as_str() == "disk0").then_some(facts))
    }

    async fn retains(&self, _: &ImageId, since: &Since) -> Result<bool, OpenFailure> {
        Ok(*since == Since::Version(Version(7)))
    }

    async fn list_retained(&self, _: &ImageId, _: usize) -> Result<Vec<Since>, OpenFailure> {
        let monday = Since::Snapshot("monday".to_owned());
        Ok(vec![monday, Since::Version(Version(7))])
    }
}

struct World {
    server: Server<MemoryImages>,
    disk: MemoryDisk,
    unsettled: Arc<AtomicBool>,
    journal: Journal,
}

impl World {
    fn new() -> Self {
        Self::with(ServerConfig::default())
    }

    fn with(config: ServerConfig) -> Self {
        let disk = MemoryDisk::new();
        let journal = Journal::default();
        let unsettled = Arc::new(AtomicBool::new(false));
        let images = MemoryImages {
            disk: disk.clone(),
            size_bytes: Arc::new(AtomicU64::new(4 * MIB)),
            unsettled: Arc::clone(&unsettled),
            journal: Arc::clone(&journal),
        };
        let keys = TokenKeys::from_secret(SECRET).unwrap();
        let clock = Arc::new(TestClock::start());
        let server = Server::new(clock, Arc::new(TestSpawner), images, keys, config);
        Self {
            server,
            disk,
            unsettled,
            journal,
        }
    }

    fn stream(&self) -> tokio::io::DuplexStream {
        let (stream, served) = tokio::io::duplex(64 * 1024);
        let server = self.server.clone();
        tokio::spawn(async move {
            server
                .serve_connection(served, &PeerName("test".to_owned()))
                .await;
        });
        stream
    }

    async fn connect(&self, token: &NewToken) -> Result<Client, ClientError> {
        Client::connect(self.stream(), signed(token), Opening::Go, &TestSpawner).await
    }

    async fn describe(&self, token: &NewToken) -> Result<RemoteExport, ClientError> {
        Client::describe(self.stream(), signed(token)).await
    }

    fn journal(&self) -> Vec<String> {
        std::mem::take(&mut self.journal.lock().unwrap())
    }
}

fn token(image: &str) -> NewToken {
    NewToken::new(&ImageId::parse(image).unwrap(), EXPIRES)
}

fn signed(token: &NewToken) -> ExportName {
    let now = WallTime { unix_ms: 0 };
    ExportName::new(token.sign(SECRET, now).unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_image_is_opened_once_for_many() {
    let world = World::new();
    let token = token("disk0");
    let attempts = (0..20).map(|_| world.connect(&token));
    let clients = futures_util::future::join_all(attempts).await;
    let clients: Vec<_> = clients.into_iter().map(Result::unwrap).collect();
    assert_eq!(world.journal(), ["open"]);
    assert!(clients[0].export().can_multi_conn);
    assert_eq!(clients[0].export().name.as_deref(), Some("disk0"));
    clients[3]
        .write(0, Bytes::from_static(b"x"), true)
        .await
        .unwrap();
    assert_eq!(clients[4].read(0, 1).await.unwrap()[..], *b"x");
}

#[tokio::test(start_paused = true)]
async fn an_idle_image_is_closed_and_opens_again() {
    let world = World::new();
    let client = world.connect(&token("disk0")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert_eq!(world.journal(), ["open"]);
    client.disconnect().await;
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert!(world.journal().is_empty());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(world.journal(), ["close"]);
    // While it is closing, a new connection waits, and then opens it again.
    let client = world.connect(&token("disk0")).await.unwrap();
    assert_eq!(world.journal(), ["open"]);
    client.disconnect().await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(world.journal(), ["close"]);
    assert!(world.server.image_ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_idle_image_is_closed_once_it_is_settled_or_takes_too_long() {
    let world = World::new();
    let connect_once = async |unsettled: bool| {
        world.unsettled.store(unsettled, Ordering::Relaxed);
        let client = world.connect(&token("disk0")).await.unwrap();
        client.disconnect().await;
        assert_eq!(world.journal(), ["open"]);
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(world.journal().is_empty(), unsettled);
    };
    connect_once(false).await;
    connect_once(true).await;
    world.unsettled.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.journal(), ["close"]);
    connect_once(true).await;
    tokio::time::sleep(SETTLE_TIME_MAX - Duration::from_secs(50)).await;
    assert!(world.journal().is_empty());
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(world.journal(), ["close"]);
}

#[tokio::test(start_paused = true)]
async fn looking_at_an_image_does_not_keep_it_open() {
    let world = World::new();
    let client = world.connect(&token("disk0")).await.unwrap();
    client.disconnect().await;
    let id = ImageId::parse("disk0").unwrap();
    for _ in 0..7 {
        assert!(world.server.image(&id).await.is_some());
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    assert_eq!(world.journal(), ["open", "close"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gives_up_while_attaching_frees_its_place_and_replaces_nobody() {
    let world = World::new();
    let mut named = token("disk0");
    named.client_id = Some("alpha".to_owned());
    let opening = world.connect(&named);
    // Opening takes a second.
    assert!(
        tokio::time::timeout(Duration::from_millis(10), opening)
            .await
            .is_err()
    );
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(world.server.connections(), 0);
    let live = world.connect(&named);
    let impatient = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let second = world.connect(&named);
        assert!(
            tokio::time::timeout(Duration::from_millis(10), second)
                .await
                .is_err()
        );
    };
    let (live, ()) = tokio::join!(live, impatient);
    let live = live.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(live.read(0, 4).await.unwrap()[..], [0; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_client_replaces_its_own_connection_only() {
    let world = World::new();
    let mut named = token("disk0");
    named.client_id = Some("alpha".to_owned());
    let first = world.connect(&named).await.unwrap();
    assert!(!first.export().can_multi_conn);
    let bystander = world.connect(&token("disk0")).await.unwrap();
    world.disk.set_running(false);
    world.disk.take_log();
    let write = first.write(0, Bytes::from_static(b"late"), false);
    let replacement = async {
        tokio::task::yield_now().await;
        world.describe(&named).await.unwrap();
        assert_eq!(world.disk.take_log(), ["write 0+4 Buffered"]);
        world.connect(&named).await.unwrap()
    };
    let (written, second) = tokio::join!(write, replacement);
    assert_eq!(written, Err(ClientError::Lost));
    assert_eq!(world.disk.take_log(), ["revoke"]);
    world.disk.set_running(true);
    assert_eq!(second.read(0, 4).await.unwrap()[..], [0; 4]);
    assert_eq!(bystander.read(0, 4).await.unwrap()[..], [0; 4]);
}

/// What a connection sent that ended by itself is as dead as what one sent that is replaced,
/// whoever comes between the client's two.
#[tokio::test(start_paused = true)]
async fn what_a_lost_connection_sent_does_not_follow_its_client() {
    for others_come_between in [false, true] {
        let world = World::new();
        let mut named = token("disk0");
        named.client_id = Some("alpha".to_owned());
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let mut served = world.stream();
        let cable = tokio::spawn(async move {
            let _ = tokio::io::copy_bidirectional(&mut far, &mut served).await;
        });
        let first = Client::connect(near, signed(&named), Opening::Go, &TestSpawner);
        let first = first.await.unwrap();
        world.disk.set_running(false);
        let write = first.write(0, Bytes::from_static(b"late"), false);
        let soon = Duration::from_secs(1);
        tokio::time::timeout(soon, write).await.unwrap_err();
        cable.abort();
        tokio::time::sleep(soon).await;
        assert_eq!(world.server.connections(), 0, "it ended by itself");
        if others_come_between {
            world.connect(&token("disk0")).await.unwrap();
        }
        world.connect(&named).await.unwrap();
        assert_eq!(world.disk.take_log(), ["write 0+4 Buffered", "revoke"]);
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_create_and_grow_but_never_by_asking() {
    let world = World::new();
    let mut large = token("disk0");
    large.image_size = Some(6 * MIB);
    assert_eq!(world.describe(&large).await.unwrap().size_bytes, 6 * MIB);
    assert!(world.journal().is_empty());
    assert_eq!(
        world.connect(&large).await.unwrap().export().size_bytes,
        6 * MIB
    );
    assert_eq!(world.journal(), ["open", "grow"]);
    let mut small = token("disk0");
    small.image_size = Some(MIB);
    assert_eq!(
        world.connect(&small).await.unwrap().export().size_bytes,
        6 * MIB
    );

    let mut reader = token("disk0");
    reader.image_size = Some(100 * MIB);
    reader.read_only = Some(true);
    let reader = world.connect(&reader).await.unwrap();
    assert!(reader.export().read_only);
    assert_eq!(reader.export().size_bytes, 6 * MIB);
    assert!(world.journal().is_empty());

    let mut new = token("new");
    assert!(world.describe(&new).await.is_err());
    new.image_size = Some(MIB);
    assert_eq!(world.describe(&new).await.unwrap().size_bytes, MIB);
}

#[tokio::test(start_paused = true)]
async fn refusals_say_nothing_about_tokens() {
    let world = World::new();
    let wrong = ExportName::new("disk0".to_owned()).unwrap();
    let policy = Client::connect(world.stream(), wrong, Opening::Go, &TestSpawner).await;
    let mut expired = token("disk0");
    expired.exp = 1_000_000_000;
    let expired = world.connect(&expired).await;
    assert!(matches!(
        &policy,
        Err(ClientError::Refused(ServerRefusal::Policy { .. }))
    ));
    assert_eq!(policy.unwrap_err(), expired.unwrap_err());

    let mut pages = token("disk0");
    pages.page_size_bits = Some(16);
    for refused in [
        world.connect(&pages).await.map(drop),
        world.describe(&pages).await.map(drop),
    ] {
        assert!(refused.unwrap_err().to_string().contains("page size"));
    }
    let broken = world.connect(&token("broken")).await.unwrap_err();
    assert!(!broken.to_string().contains("secret reason"));
}

#[tokio::test(start_paused = true)]
async fn connections_to_one_image_are_limited() {
    let world = World::new();
    let mut clients = Vec::new();
    for _ in 0..crate::session::limits::CONNECTIONS_PER_IMAGE_MAX {
        clients.push(world.connect(&token("disk0")).await.unwrap());
    }
    assert!(world.connect(&token("disk0")).await.is_err());
    clients.pop().unwrap().disconnect().await;
    tokio::task::yield_now().await;
    assert!(world.connect(&token("disk0")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_image_that_does_not_open_leaves_seats_to_others() {
    let world = World::with(ServerConfig {
        connections_max: SLOTS_PER_IMAGE_MAX + 2,
        ..ServerConfig::default()
    });
    let clients: Vec<_> = (0..SLOTS_PER_IMAGE_MAX + 10)
        .map(|_| {
            let stream = world.stream();
            tokio::spawn(async move {
                let token = signed(&token("stuck"));
                Client::connect(stream, token, Opening::Go, &TestSpawner)
                    .await
                    .is_ok()
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let waiting = clients.iter().filter(|client| !client.is_finished());
    assert_eq!(waiting.count(), SLOTS_PER_IMAGE_MAX);
    let other = world.connect(&token("disk0")).await.unwrap();
    assert_eq!(other.read(0, 1).await.unwrap()[..], [0]);
    clients.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn shutting_down_drains_and_closes() {
    let world = World::new();
    let client = world.connect(&token("disk0")).await.unwrap();
    world.disk.set_running(false);
    let write = client.write(0, Bytes::from_static(b"kept"), false);
    let shutdown = async {
        tokio::task::yield_now().await;
        let (disk, server) = (world.disk.clone(), world.server.clone());
        tokio::join!(server.shut_down(), async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            disk.set_running(true);
        });
    };
    let (written, ()) = tokio::join!(write, shutdown);
    assert_eq!(written, Ok(()));
    assert_eq!(world.journal(), ["open", "close"]);
    let refused = world.connect(&token("disk0")).await.unwrap_err();
    assert!(matches!(
        refused,
        ClientError::Refused(ServerRefusal::Shutdown { .. })
    ));
    world.server.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn shutting_down_cuts_off_what_does_not_end() {
    let world = World::new();
    let client = world.connect(&token("disk0")).await.unwrap();
    world.disk.set_running(false);
    let write = client.write(0, Bytes::from_static(b"lost"), false);
    let (written, ()) = tokio::join!(write, async {
        tokio::task::yield_now().await;
        world.server.shut_down().await;
    });
    assert_eq!(written, Err(ClientError::Lost));
    assert_eq!(world.journal(), ["open", "close"]);
}

#[tokio::test(start_paused = true)]
async fn a_token_may_be_bound_to_a_certificate() {
    let world = World::with(ServerConfig {
        security: Some(Arc::new(Veiling { is_required: false })),
        ..ServerConfig::default()
    });
    let bound = |name: &str| {
        let mut bound = token("disk0");
        bound.tls_client = Some(name.to_owned());
        bound
    };
    // In the clear nobody proves anything.
    let refused = world.connect(&bound("host-1")).await.unwrap_err();
    assert!(matches!(
        refused,
        ClientError::Refused(ServerRefusal::Policy { .. })
    ));
    let mut stream = world.stream();
    greet(&mut stream).await;
    stream.write_all(&option(5, &[])).await.unwrap();
    assert_eq!(option_reply(&mut stream).await, 1);
    let mut veiled = Veil(stream);
    let other = signed(&bound("host-2"));
    let name = other.reveal().as_bytes();
    let name_bytes = u32::try_from(name.len()).unwrap().to_be_bytes();
    let go = [&name_bytes[..], name, &[0, 0]].concat();
    veiled.write_all(&option(7, &go)).await.unwrap();
    assert_eq!(option_reply(&mut veiled).await, 0x8000_0002);
    attach(&mut veiled, &signed(&bound("HOST-1"))).await;
}

#[tokio::test(start_paused = true)]
async fn who_negotiates_for_long_makes_room_for_who_has_a_token() {
    let world = World::new();
    let early = world.connect(&token("disk0")).await.unwrap();
    let mut silent: Vec<_> = (0..3 * HALF_OPEN_MAX).map(|_| world.stream()).collect();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(world.server.connections(), HALF_OPEN_MAX + 1);
    let late = world.connect(&token("disk0")).await.unwrap();
    for client in [&early, &late] {
        assert_eq!(client.read(0, 1).await.unwrap()[..], [0]);
    }
    let mut greeting = Vec::new();
    silent[0].read_to_end(&mut greeting).await.unwrap();
    assert_eq!(greeting.len(), 18, "the first was sent away");
    tokio::time::sleep(HANDSHAKE_TIME_MAX).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.server.connections(), 2, "the others were too slow");
    early.disconnect().await;
    late.disconnect().await;
    tokio::task::yield_now().await;
    assert_eq!(world.server.connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn where_all_have_tokens_nobody_is_evicted() {
    let world = World::with(ServerConfig {
        connections_max: 2,
        ..ServerConfig::default()
    });
    let (one, two) = (
        world.connect(&token("disk0")).await.unwrap(),
        world.connect(&token("disk0")).await.unwrap(),
    );
    assert!(world.connect(&token("disk0")).await.is_err());
    assert_eq!(one.read(0, 1).await.unwrap()[..], [0]);
    two.disconnect().await;
    tokio::task::yield_now().await;
    assert!(world.connect(&token("disk0")).await.is_ok());
}

/// Somebody connects whenever he can, a thousand times, and says nothing.
struct Flood {
    held: Vec<tokio::io::DuplexStream>,
    accepted: Arc<AtomicU64>,
}

#[async_trait::async_trait]
impl Listener for Flood {
    async fn accept(&mut self) -> io::Result<(Box<dyn Connection>, PeerName)> {
        if self.held.len() == 1000 {
            std::future::pending::<()>().await;
        }
        let (client, served) = tokio::io::duplex(1024);
        self.held.push(client);
        self.accepted.fetch_add(1, Ordering::Relaxed);
        Ok((Box::new(served), PeerName("flood".to_owned())))
    }

    fn address(&self) -> Address {
        Address::Tcp("flood:1".to_owned())
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_connections_gives_way_to_other_tasks() {
    let world = World::new();
    let accepted = Arc::new(AtomicU64::new(0));
    let flood = Flood {
        held: Vec::new(),
        accepted: Arc::clone(&accepted),
    };
    let server = world.server.clone();
    let other = tokio::spawn(async move {
        let mut most = 0;
        for _ in 0..200 {
            let before = accepted.load(Ordering::Relaxed);
            let_others_run().await;
            most = most.max(accepted.load(Ordering::Relaxed) - before);
        }
        (most, accepted.load(Ordering::Relaxed))
    });
    let listening = tokio::spawn(async move { server.listen(Box::new(flood)).await });
    let (most, total) = other.await.unwrap();
    assert!(total > 100, "{total} were accepted");
    assert!(most <= 2, "{most} between two turns of another task");
    world.server.shut_down().await;
    listening.await.unwrap();
}
