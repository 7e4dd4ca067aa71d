//! Client, server and engine together, in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::EngineImages;
use crate::admin::{self, Admin, AdminError, ReaderLife};
use crate::client::{Client, ClientError};
use crate::encryption::RootKeys;
use crate::engine::{EngineConfig, Host};
use crate::env::memory::testing::test_environment;
use crate::env::memory::{MemoryBufferStores, MemoryObjectStore, SeededEntropy};
use crate::env::{Environment, PeerName, WallTime};
use crate::ids::ImageId;
use crate::nbd::{Errno, ExportName, Opening};
use crate::protocol::ManifestStore;
use crate::session::{Server, ServerConfig};
use crate::store::RetryingStore;
use crate::token::{DurabilityClaim, NewToken, TokenKeys};

const SECRET: &[u8] = b"insecure_token";
const SIZE_BYTES: u64 = 16 * 1024 * 1024;

struct World {
    server: Server<EngineImages>,
    environment: Environment,
    _objects: Arc<MemoryObjectStore>,
}

impl World {
    fn new() -> Self {
        let (environment, objects) = test_environment(7, Arc::new(MemoryBufferStores::new()));
        let host = Host::new(environment.clone(), 64 << 20);
        let images = EngineImages::new(host, EngineConfig::default()).with_reader(reader("zero"));
        let keys = TokenKeys::from_secret(SECRET).unwrap();
        let (clock, spawner) = (environment.clock.clone(), environment.spawner.clone());
        let server = Server::new(clock, spawner, images, keys, ServerConfig::default());
        Self {
            server,
            environment,
            _objects: objects,
        }
    }

    async fn connect(&self, token: &NewToken) -> Result<Client, ClientError> {
        let (stream, served) = tokio::io::duplex(64 * 1024);
        let server = self.server.clone();
        let task = async move {
            server
                .serve_connection(served, &PeerName("test".to_owned()))
                .await;
        };
        self.environment
            .spawner
            .spawn("nbd connection", Box::pin(task));
        let name = signed(token);
        Client::connect(stream, name, Opening::Go, &*self.environment.spawner).await
    }
}

fn reader(stable: &str) -> ReaderLife {
    ReaderLife::begin(stable, 1, &SeededEntropy::new(1))
}

fn token() -> NewToken {
    let image = ImageId::parse("disk0").unwrap();
    let mut token = NewToken::new(&image, 1_900_000_000);
    token.image_size = Some(SIZE_BYTES);
    token
}

fn signed(token: &NewToken) -> ExportName {
    let text = token.sign(SECRET, WallTime { unix_ms: 0 }).unwrap();
    ExportName::new(text).unwrap()
}

fn bytes(byte: u8, length: usize) -> Bytes {
    Bytes::from(vec![byte; length])
}

#[tokio::test(start_paused = true)]
async fn a_disk_keeps_what_is_written_over_close_and_growth() {
    let world = World::new();
    let client = world.connect(&token()).await.unwrap();
    assert_eq!(client.export().size_bytes, SIZE_BYTES);
    client.write(1000, bytes(7, 100_000), false).await.unwrap();
    client.write_zeroes(50_000, 10, true).await.unwrap();
    client.trim(8192, 4096, false).await.unwrap();
    client.flush().await.unwrap();
    client.disconnect().await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(world.server.image_ids().is_empty());

    let mut larger = token();
    larger.image_size = Some(2 * SIZE_BYTES);
    larger.durability = Some(DurabilityClaim::ObjectStore);
    let client = world.connect(&larger).await.unwrap();
    assert_eq!(client.export().size_bytes, 2 * SIZE_BYTES);
    let mut expected = vec![7; 100_000];
    expected[49_000..49_010].fill(0);
    expected[7192..7192 + 4096].fill(0);
    assert_eq!(client.read(1000, 100_000).await.unwrap()[..], expected);
    client
        .write(2 * SIZE_BYTES - 1, bytes(1, 1), true)
        .await
        .unwrap();
    client.flush().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn transactions_are_isolated_and_conflict() {
    let world = World::new();
    let mut one = world.connect(&token()).await.unwrap();
    let mut two = world.connect(&token()).await.unwrap();
    two.write(0, bytes(1, 4096), false).await.unwrap();

    let first = one.begin().await.unwrap();
    let second = two.begin().await.unwrap();
    assert_eq!(first.read(0, 1).await.unwrap()[..], [1]);
    assert_eq!(second.read(0, 1).await.unwrap()[..], [1]);
    first.write(0, bytes(2, 4096)).await.unwrap();
    second.write(0, bytes(3, 4096)).await.unwrap();
    assert_eq!(second.read(0, 1).await.unwrap()[..], [3]);
    first.commit(true).await.unwrap();
    assert_eq!(second.commit(false).await, Err(ClientError::Conflict));
    assert_eq!(two.read(0, 1).await.unwrap()[..], [2]);

    let deleting = one.begin().await.unwrap();
    deleting.delete_page(0).await.unwrap();
    deleting.lock().await.unwrap();
    assert_eq!(two.read(0, 1).await.unwrap()[..], [2]);
    deleting.commit(false).await.unwrap();
    assert_eq!(two.read(0, 4096).await.unwrap(), bytes(0, 4096));

    let forgotten = one.begin().await.unwrap();
    forgotten.write(0, bytes(9, 4096)).await.unwrap();
    // Not even a rollback is sent.
    std::mem::forget(forgotten);
    one.abort().await;
    assert_eq!(two.read(0, 1).await.unwrap()[..], [0]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lock_holder_lets_others_write() {
    let world = World::new();
    let mut holder = world.connect(&token()).await.unwrap();
    let other = world.connect(&token()).await.unwrap();
    let transaction = holder.begin().await.unwrap();
    transaction.lock().await.unwrap();
    let mut write = Box::pin(other.write(0, bytes(1, 4096), false));
    let waited = tokio::time::timeout(Duration::from_millis(10), &mut write);
    assert!(waited.await.is_err(), "writers wait for the lock");
    std::mem::forget(transaction);
    holder.abort().await;
    write.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_replaced_connection_writes_nothing_more() {
    let world = World::new();
    let mut named = token();
    named.client_id = Some("alpha".to_owned());
    let mut blocker = world.connect(&token()).await.unwrap();
    let first = world.connect(&named).await.unwrap();
    let transaction = blocker.begin().await.unwrap();
    transaction.lock().await.unwrap();
    // The write waits for the lock, and its connection is replaced meanwhile.
    let (written, second) = tokio::join!(first.write(0, bytes(1, 4096), false), async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        world.connect(&named).await.unwrap()
    });
    assert_eq!(written, Err(ClientError::Lost));
    transaction.commit(false).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(second.read(0, 1).await.unwrap()[..], [0]);
    second.write(0, bytes(2, 4096), true).await.unwrap();
    assert_eq!(second.read(0, 1).await.unwrap()[..], [2]);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_leaves_a_clean_image() {
    let world = World::new();
    let client = world.connect(&token()).await.unwrap();
    client.write(4096, bytes(5, 4096), false).await.unwrap();
    world.server.shut_down().await;
    assert_eq!(client.read(0, 1).await, Err(ClientError::Lost));

    // Another server, with another buffer store, on the same objects.
    let mut environment = world.environment.clone();
    environment.buffers = Arc::new(MemoryBufferStores::new());
    let images = EngineImages::new(
        Host::new(environment.clone(), 64 << 20),
        EngineConfig::default(),
    );
    let (clock, spawner) = (environment.clock.clone(), environment.spawner.clone());
    let keys = TokenKeys::from_secret(SECRET).unwrap();
    let server = Server::new(clock, spawner, images, keys, ServerConfig::default());
    let next = World {
        server,
        environment,
        _objects: Arc::clone(&world._objects),
    };
    let mut any_size = token();
    any_size.image_size = None;
    let client = next.connect(&any_size).await.unwrap();
    assert_eq!(client.export().size_bytes, SIZE_BYTES);
    assert_eq!(client.read(4096, 4096).await.unwrap(), bytes(5, 4096));
}

/// Another server on the same objects, with a buffer store and a name of its own.
fn another(world: &World, name: &str) -> World {
    let mut environment = world.environment.clone();
    environment.buffers = Arc::new(MemoryBufferStores::new());
    let host = Host::new(environment.clone(), 64 << 20);
    let images = EngineImages::new(host, EngineConfig::default()).with_reader(reader(name));
    let (clock, spawner) = (environment.clock.clone(), environment.spawner.clone());
    let keys = TokenKeys::from_secret(SECRET).unwrap();
    World {
        server: Server::new(clock, spawner, images, keys, ServerConfig::default()),
        environment,
        _objects: Arc::clone(&world._objects),
    }
}

struct Operator {
    manifests: ManifestStore,
    environment: Environment,
    root_keys: RootKeys,
}

impl Operator {
    fn of(world: &World) -> Self {
        let environment = world.environment.clone();
        let (clock, entropy) = (environment.clock.clone(), environment.entropy.clone());
        let store = RetryingStore::new(environment.objects.clone(), clock, entropy);
        Self {
            manifests: ManifestStore::new(store),
            environment,
            root_keys: RootKeys::none(),
        }
    }

    fn admin(&self) -> Admin<'_> {
        Admin {
            manifests: &self.manifests,
            clock: &*self.environment.clock,
            entropy: &*self.environment.entropy,
            root_keys: &self.root_keys,
        }
    }

    async fn pinned_by(&self) -> Vec<String> {
        let image = ImageId::parse("disk0").unwrap();
        let pins = admin::pins(&self.admin(), &image, None).await.unwrap().pins;
        let pins = pins.into_iter();
        pins.map(|pin| pin.holder).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn any_number_of_servers_read_a_snapshot_and_it_is_pinned_meanwhile() {
    let world = World::new();
    let operator = Operator::of(&world);
    let image = ImageId::parse("disk0").unwrap();
    let writer = world.connect(&token()).await.unwrap();
    writer.write(0, bytes(1, 4096), false).await.unwrap();
    let live = world.server.image(&image).await.unwrap();
    let version = live.live().unwrap().checkpoint().await.unwrap();
    admin::create_snapshot(&operator.admin(), &image, "monday", None)
        .await
        .unwrap();
    writer.write(0, bytes(2, 4096), false).await.unwrap();
    let mut larger = token();
    larger.image_size = Some(2 * SIZE_BYTES);
    drop(world.connect(&larger).await.unwrap());

    let mut monday = token();
    monday.snapshot = Some("monday".to_owned());
    let mut numbered = token();
    numbered.version = Some(version.0);
    let (one, two) = (another(&world, "one"), another(&world, "two"));
    let first = one.connect(&monday).await.unwrap();
    let second = two.connect(&monday).await.unwrap();
    let third = two.connect(&numbered).await.unwrap();
    let beside = world.connect(&monday).await.unwrap();
    for client in [&first, &second, &third, &beside] {
        assert_eq!(client.export().size_bytes, SIZE_BYTES, "its size then");
        assert_eq!(client.read(0, 4096).await.unwrap(), bytes(1, 4096));
        client.flush().await.unwrap();
        let refused = client.write(0, bytes(9, 4096), false).await;
        assert_eq!(refused, Err(ClientError::Failed(Errno::Permission)));
        let refused = client.trim(0, 4096, false).await;
        assert_eq!(refused, Err(ClientError::Failed(Errno::Permission)));
    }
    let (of_one, of_two) = (reader("one"), reader("two"));
    let expected = [
        format!("reader {of_one}:snapshot:monday"),
        format!("reader {of_two}:snapshot:monday"),
        format!("reader {of_two}:version:{version}"),
    ];
    assert_eq!(operator.pinned_by().await[..3], expected);
    assert_eq!(writer.read(0, 4096).await.unwrap(), bytes(2, 4096));

    third.disconnect().await;
    first.disconnect().await;
    beside.disconnect().await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(operator.pinned_by().await, expected[1..2]);
    let refused = admin::delete_snapshot(&operator.admin(), &image, "monday", false).await;
    assert!(matches!(refused, Err(AdminError::SnapshotPinned { .. })));
    second.disconnect().await;
    two.server.shut_down().await;
    assert!(operator.pinned_by().await.is_empty());
    admin::delete_snapshot(&operator.admin(), &image, "monday", false)
        .await
        .unwrap();
    writer.write(0, bytes(3, 4096), true).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_is_said_and_nothing_is_made() {
    let world = World::new();
    let writer = world.connect(&token()).await.unwrap();
    writer.write(0, bytes(1, 4096), false).await.unwrap();
    let mut gone = token();
    gone.version = Some(77);
    let error = world.connect(&gone).await.err().unwrap();
    assert!(error.to_string().contains("the version is gone"), "{error}");
    let mut unknown = token();
    unknown.snapshot = Some("never".to_owned());
    let error = world.connect(&unknown).await.err().unwrap();
    assert!(error.to_string().contains("no snapshot"), "{error}");
    let mut nowhere = NewToken::new(&ImageId::parse("nowhere").unwrap(), 1_900_000_000);
    nowhere.version = Some(1);
    nowhere.image_size = Some(SIZE_BYTES);
    world.connect(&nowhere).await.err().unwrap();
    let rows = admin::list(&Operator::of(&world).manifests).await.unwrap();
    assert_eq!(rows.len(), 1);
}
