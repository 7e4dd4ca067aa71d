//! The server, from its settings to its exit code.
//!
//! Order of a start: what can be refused without touching anything shared comes first (keys, the
//! folder's lock, the sockets), then the object store is probed, and only then clients are let
//! in. Signals are heard before anything else: whoever sees the sockets may already send one.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mvps_core::engine::{CompactionSettings, DiskLimits, EngineConfig, Host};
use mvps_core::env::{DiskSpace, Environment, Listener};
use mvps_core::session::{EngineImages, PayloadLimits, Security, Server, ServerConfig};
use mvps_core::store::{Patience, ProbeOutcome, probe_conditional_create};
use mvps_core::token::TokenKeys;

use super::banner::banner;
use super::cache_room::{make_room, share_a_disk};
use super::drain::{Drained, drain};
use super::folder_lock::FolderLock;
use super::keys::ServerKeys;
use super::listening::{bind_all, shown};
use super::open_files;
use super::operator::Operator;
use super::reader_id;
use super::reserve::Reserve;
use super::root_keys::root_keys_of_server;
use super::settings::{EMBEDDED_PATH, EngineSettings, ImageStoreChoice, ServerSettings};
use super::signals::StopSignals;
use super::stores::{open_buffer_stores, open_disk_cache, open_object_store, this_process};
use super::tls;
use crate::control::ControlServer;
use crate::runtime::{OsEntropy, RustlsSecurity, TokioClock, TokioNetwork, TokioSpawner};

/// How long a start waits for the object store before it says that there is none. A supervisor
/// starts the server again; a person wants to know.
const PROBE_PATIENCE: Duration = Duration::from_secs(30);

/// How long a server that ends waits for its disk cache.
const DISK_CACHE_PATIENCE: Duration = Duration::from_secs(1);

/// So much of a large disk is enough to open on, to upload from and to log to.
const DISK_FLOOR_MAX_BYTES: u64 = 1 << 30;

/// Runs the server until it is told to stop.
///
/// # Errors
/// Why it could not start.
pub fn run(settings: &ServerSettings) -> anyhow::Result<ExitCode> {
    open_files::raise_limit();
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.get())
        .thread_name("mvps")
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let outcome = runtime.block_on(serve(settings, cores));
    // What still runs now was given up on.
    runtime.shutdown_background();
    outcome
}

async fn serve(settings: &ServerSettings, cores: NonZeroUsize) -> anyhow::Result<ExitCode> {
    let mut signals = StopSignals::listen().context("signals cannot be heard")?;
    let security = settings.tls.as_ref().map(tls::load).transpose()?;
    let reload = security.as_ref().map(|_| tls::reload_signal());
    let reload = reload.transpose()?;
    let lock = FolderLock::take(&settings.buffer_store_path)?;
    let reserve = Reserve::open(&settings.buffer_store_path);
    let reader = reader_id::begin_life(&settings.buffer_store_path, &lock, &OsEntropy)?;
    let root_keys = root_keys_of_server(settings.requires_encryption)?;
    let keys = ServerKeys::load(
        settings.jwt_public_key.as_deref(),
        &settings.image_store,
        &OsEntropy,
    )?;
    let listeners = bind_all(&TokioNetwork, &settings.listen).await?;
    let control = ControlServer::bind(&settings.buffer_store_path)
        .await
        .with_context(|| control_advice(settings))?;
    reserve.close();

    let host = tokio::select! {
        biased;
        signal = signals.next() => {
            tracing::info!(signal, "ended before the object store answered");
            return Ok(Drained::Whole.exit_code());
        }
        host = probed_host(settings, cores) => host?.with_root_keys(root_keys),
    };

    let clock = Arc::clone(&host.environment.clock);
    let listen: Vec<String> = listeners.iter().map(|one| shown(&one.address())).collect();
    let token = match settings.image_store {
        ImageStoreChoice::Embedded => keys.embedded_token(&*clock)?,
        _ => None,
    };
    let first = listeners[0].address();
    let images = EngineImages::new(host.clone(), engine_config(&settings.engine));
    let images = images.with_reader(reader);
    let server = start(
        &host,
        keys.tokens,
        listeners,
        settings,
        images,
        security.clone(),
    );
    if let (Some(security), Some(signal)) = (security, reload) {
        tokio::spawn(tls::reload(security, signal));
    }
    let operator = Operator::new(server.clone(), host.clone(), settings, listen.clone());
    let control = tokio::spawn(control.run(Arc::new(operator)));
    tracing::info!(
        listen = listen.join(", "), image_store = %settings.image_store,
        buffer_store = %settings.buffer_store_path.display(), "ready"
    );
    if let Some(token) = token {
        print_banner(&banner(&first, &token, EMBEDDED_PATH));
    }

    let signal = signals.next().await;
    tracing::info!(signal, "draining; a second signal ends the process at once");
    let drained = tokio::select! {
        biased;
        signal = signals.next() => {
            tracing::warn!(signal, "ended at once; buffer stores are as after a crash");
            Drained::Interrupted
        }
        drained = drain(&server, &host, settings.shutdown_patience) => drained,
    };
    control.abort();
    if let Some(disk) = host.disk_cache() {
        // What the last checkpoints wrote: the next start begins warm. It is a cache, so not longer.
        let _ = tokio::time::timeout(DISK_CACHE_PATIENCE, disk.settled()).await;
        // Nor does the process wait for its database to put things in order.
        std::mem::forget(Arc::clone(disk));
    }
    // The system releases it when the process has ended, and nothing of it goes on: the next life
    // in this folder relies on that.
    std::mem::forget(lock);
    Ok(drained.exit_code())
}

/// Lets clients in.
fn start(
    host: &Host,
    tokens: TokenKeys,
    listeners: Vec<Box<dyn Listener>>,
    settings: &ServerSettings,
    images: EngineImages,
    security: Option<Arc<RustlsSecurity>>,
) -> Server<EngineImages> {
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let config = ServerConfig {
        scheduler_permits: threads.get(),
        idle_time: settings.idle_close,
        durability: settings.durability,
        security: security.map(|security| security as Arc<dyn Security>),
        payload: PayloadLimits {
            write_bytes: host.memory.write_bytes,
            read_bytes: host.memory.read_bytes,
        },
        ..ServerConfig::default()
    };
    let environment = &host.environment;
    let clock = Arc::clone(&environment.clock);
    let spawner = Arc::clone(&environment.spawner);
    let server = Server::new(clock, spawner, images, tokens, config);
    for listener in listeners {
        let server = server.clone();
        environment.spawner.spawn(
            "listen",
            Box::pin(async move { server.listen(listener).await }),
        );
    }
    server
}

fn control_advice(settings: &ServerSettings) -> String {
    format!(
        "the control socket in {} cannot be made (a path over 100 characters is too long for a \
         socket; choose a shorter --buffer-store-path)",
        settings.buffer_store_path.display()
    )
}

async fn probed_host(settings: &ServerSettings, cores: NonZeroUsize) -> anyhow::Result<Host> {
    let environment = Environment {
        clock: Arc::new(TokioClock::new()),
        entropy: Arc::new(OsEntropy),
        spawner: Arc::new(TokioSpawner::current(cores)),
        objects: open_object_store(&settings.image_store).await?,
        buffers: open_buffer_stores(&settings.buffer_store_path),
    };
    let space = environment.buffers.space();
    let limits = disk_limits(&settings.engine, &settings.image_store, space);
    let disk_cache = open_disk_cache(&settings.disk_cache, &settings.image_store).await;
    let memory = settings.engine.memory;
    tracing::info!(?memory, "shares of the memory");
    let host = Host::with_disk_cache(environment, memory.cache_bytes, disk_cache);
    let host = host.with_disk_limits(limits).with_memory(memory);
    if let Some(cache) = host.disk_cache()
        && share_a_disk(&settings.buffer_store_path, &settings.disk_cache.path)
    {
        let environment = &host.environment;
        let (buffers, clock) = (&environment.buffers, &environment.clock);
        tokio::spawn(make_room(
            Arc::clone(cache),
            Arc::clone(buffers),
            Arc::clone(clock),
            limits.floor_bytes,
        ));
    }
    probe(&host, settings.accepts_unfenced, &settings.image_store).await?;
    Ok(host)
}

/// What the buffer stores may take of their disk.
fn disk_limits(
    settings: &EngineSettings,
    store: &ImageStoreChoice,
    space: Option<DiskSpace>,
) -> DiskLimits {
    // Some file systems have no size.
    let space = space.filter(|space| space.total_bytes > 0);
    // A local store, on the same disk as a rule, takes a segment before a generation goes.
    let divisor = match store {
        ImageStoreChoice::S3 { .. } => 50,
        ImageStoreChoice::Embedded | ImageStoreChoice::Local(_) => 8,
    };
    let total = space.map(|space| space.total_bytes / 2);
    let total = settings.buffer_total_bytes.or(total);
    let floor = space.map(|space| (space.total_bytes / divisor).min(DISK_FLOOR_MAX_BYTES));
    let limits = DiskLimits {
        total_bytes: total.unwrap_or(u64::MAX),
        floor_bytes: settings.disk_floor_bytes.or(floor).unwrap_or(0),
    };
    tracing::info!(
        total_bytes = limits.total_bytes,
        floor_bytes = limits.floor_bytes,
        free_bytes = space.map(|space| space.free_bytes),
        "room for buffer stores"
    );
    if space.is_some_and(|space| space.free_bytes <= limits.floor_bytes) {
        tracing::warn!(
            "less is free on the buffer stores' disk than must stay free (--disk-floor-bytes): \
             writes wait until there is more"
        );
    }
    limits
}

fn engine_config(settings: &EngineSettings) -> EngineConfig {
    EngineConfig {
        checkpoint_interval: settings.checkpoint_interval,
        checkpoint_bytes: settings.checkpoint_bytes,
        buffer_limit_bytes: settings.buffer_limit_bytes,
        cache_bytes: settings.memory.cache_bytes,
        compression: settings.compression,
        compaction: CompactionSettings {
            cleaning: settings.cleaning,
            ..CompactionSettings::for_checkpoints_of(settings.checkpoint_bytes)
        },
        owner: this_process(),
        ..EngineConfig::default()
    }
}

/// Refuses an object store that cannot be reached, or on which fencing would not work.
async fn probe(
    host: &Host,
    accept_unfenced: bool,
    choice: &ImageStoreChoice,
) -> anyhow::Result<()> {
    let store = host.store.with_patience(Patience::For(PROBE_PATIENCE));
    let outcome = probe_conditional_create(&store, accept_unfenced)
        .await
        // The error's own text has its source's already.
        .map_err(|error| anyhow::anyhow!("the object store {choice} cannot be used: {error}"))?;
    if outcome == ProbeOutcome::Unfenced {
        tracing::warn!(
            "the object store ignores If-None-Match, and --unsafe-no-fencing accepts it: two \
             servers of one image will destroy it"
        );
    }
    Ok(())
}

/// A closed stdout keeps nobody from using the server.
fn print_banner(text: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
