//! One server process: opens the image, checks what it holds, serves clients, closes.

use std::sync::Arc;

use mvps_core::engine::{DiskLimits, Host, MemoryShares, OpenError, open};
use mvps_core::protocol::OpeningError;
use mvps_core::store::probe_conditional_create;
use tokio::sync::watch;

use super::client::Client;
use super::history::keep_history;
use super::nbd_server::serve_nbd;
use super::orders::{Orders, Status, opening_request, read_back};
use crate::environment::disk_cache::Opener;
use crate::environment::machine::{Process, Site};
use crate::random::RandomStream;

/// A host of this process: with a disk cache, a limit of all buffers and little memory, if the
/// machine's disk is one of files.
async fn local_host(site: &Site, process: &Process) -> Host {
    let plan = &site.plan;
    let (environment, cache_bytes) = (process.environment.clone(), plan.config.cache_bytes);
    if !plan.on_files {
        return Host::new(environment, cache_bytes);
    }
    let random = RandomStream::new(plan.seed, &format!("local disk of {}", process.name));
    let limits = match random.chance(300) {
        true => DiskLimits {
            total_bytes: plan.config.buffer_limit_bytes / 2,
            floor_bytes: 0,
        },
        false => DiskLimits::default(),
    };
    let memory = match random.chance(300) {
        // Indexes of a few dozen records, and one upload at a time.
        true => MemoryShares {
            index_bytes: random.pick(&[8 << 10, 32 << 10]),
            upload_bytes: 1 << 20,
            ..MemoryShares::default()
        },
        false => MemoryShares::default(),
    };
    let opener = Opener {
        server: &process.name,
        node: &process.node,
        longest: plan.disk_max,
        journal: &site.journal,
    };
    let cache = process.cache.open(opener, random).await;
    let host = Host::with_disk_cache(environment, cache_bytes, cache);
    host.with_disk_limits(limits).with_memory(memory)
}

/// Runs a server on `process` until it ends by itself; reports through `status`.
pub async fn serve(
    site: Arc<Site>,
    process: Process,
    orders: Orders,
    status: watch::Sender<Status>,
) {
    let report = |now: Status| {
        site.journal.note(&process.name, format_args!("{now:?}"));
        if !matches!(now, Status::Opening | Status::Serving) {
            site.model.ended(&process.name);
        }
        status.send_replace(now);
    };
    report(Status::Opening);
    let plan = &site.plan;
    let mut host = local_host(&site, &process).await;
    host = host.with_root_keys(plan.root_keys());
    host.store = host.store.with_part_bytes(site.plan.part_bytes);
    // As every server does when it starts.
    if let Err(error) = probe_conditional_create(&host.store, false).await {
        report(Status::Refused(error.to_string()));
        return;
    }
    if site.plan.over_nbd {
        return serve_nbd(site, process, host, orders, status).await;
    }
    let config = site.plan.config.clone();
    let image = match open(&host, &opening_request(&site), config).await {
        Ok(image) => image,
        Err(OpenError::Opening(OpeningError::Refused(refusal))) => {
            let reason = format!("{:?}", refusal.reason);
            site.model.not_let_in(&process.name, &reason);
            report(Status::Refused(reason));
            return;
        }
        Err(error) => {
            report(Status::Failed(error.to_string()));
            return;
        }
    };
    let Some(found) = image.status().await else {
        report(Status::Failed("closed at once".to_owned()));
        return;
    };
    site.model.opened(&process.name, found.tenure.id, found.lsn);
    site.model.size_told(&process.name, image.size_bytes());
    if let Err(error) = read_back(&site, &process, &image).await {
        assert!(!orders.strict, "oracle 11 (liveness): {error}");
        report(Status::Failed(error.to_string()));
        return;
    }
    report(Status::Serving);
    if site.plan.history.on_server && !orders.strict {
        let history = keep_history(Arc::clone(&site), process.clone(), host, image.clone());
        process.node.spawn(history);
    }
    let random = RandomStream::new(site.plan.seed, &format!("server {}", process.name));
    let abrupt = !orders.strict && random.chance(site.plan.abrupt);
    let (_goes_on, never) = watch::channel(false);
    let stop = if abrupt { never } else { orders.stop.clone() };
    let clients: Vec<_> = (0..site.plan.clients)
        .map(|number| {
            let attachment = image.attach();
            let client = Client::new(&site, &process.name, number, attachment, orders.strict);
            process.node.spawn(client.run(stop.clone()))
        })
        .collect();
    if site.plan.grows {
        let size = image.size_bytes() + 8 * site.plan.page_size.bytes() as u64;
        match image.grow(size).await {
            Ok(()) => {
                let journal = &site.journal;
                journal.note(&process.name, format_args!("grown to {size}"));
                site.model.size_told(&process.name, image.size_bytes());
            }
            Err(error) => assert!(!orders.strict, "oracle 11 (liveness): {error}"),
        }
    }
    if abrupt {
        // Clients learn from the image that it closes.
        let mut ordered = orders.stop.clone();
        let _ = ordered.wait_for(|stop| *stop).await;
        site.journal.mark("an image was closed under its clients");
        match image.close().await {
            Ok(()) => report(Status::Closed),
            Err(error) => report(Status::Failed(error.to_string())),
        }
        return;
    }
    for client in clients {
        // A client that panicked ended the run.
        let _ = client.await;
    }
    let asked = *orders.stop.borrow();
    match image.close().await {
        Ok(()) if asked => report(Status::Closed),
        Ok(()) => report(Status::Failed("its clients gave up".to_owned())),
        Err(error) => report(Status::Failed(error.to_string())),
    }
}
