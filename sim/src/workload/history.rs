//! What the server of an image is asked to do about its history: snapshots of what it holds, and
//! rollbacks in place, also in the middle of a checkpoint.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use madsim::time::sleep;
use mvps_core::admin::{self, Admin};
use mvps_core::encryption::RootKeys;
use mvps_core::engine::{EngineError, Host, Image};
use mvps_core::ids::Version;
use mvps_core::protocol::ManifestStore;

use super::one_shot::rest;
use crate::environment::machine::{Process, Site};
use crate::random::RandomStream;

/// Requests after which a server has peace.
const BUSY_REQUESTS: u64 = 10;

/// Versions that are rolled back to.
const VERSIONS_MAX: usize = 5;

/// Asks the server that runs on `process` for history until the image is of no more use.
pub async fn keep_history(site: Arc<Site>, process: Process, host: Host, image: Image) {
    let random = RandomStream::new(site.plan.seed, &format!("history {}", process.name));
    for done in 0.. {
        rest(
            &random,
            done,
            BUSY_REQUESTS,
            site.plan.history.pause_max * 2,
        )
        .await;
        let done = match random.below(3) {
            0 => snapshot(&site, &process, &host, &image, &random).await,
            _ => roll_back(&site, &process, &host, &image, &random).await,
        };
        if let Err(error) = done {
            site.journal
                .note(&process.name, format_args!("history: {error}"));
            let goes_on = matches!(
                error,
                EngineError::Invalid { .. }
                    | EngineError::Aborted { .. }
                    | EngineError::Unreadable { .. }
                    | EngineError::Corrupt { .. }
            );
            if !goes_on {
                return;
            }
        }
    }
}

fn told(error: impl std::fmt::Display) -> EngineError {
    EngineError::Unreadable {
        reason: error.to_string(),
    }
}

/// A snapshot checkpoints first, so that it has everything acknowledged.
async fn snapshot(
    site: &Site,
    process: &Process,
    host: &Host,
    image: &Image,
    random: &RandomStream,
) -> Result<(), EngineError> {
    let acknowledged = site.model.acknowledged_of(&process.name);
    let version = image.checkpoint().await?;
    if let Some(acknowledged) = acknowledged {
        let model = &site.model;
        model.snapshot_made(&process.name, version, acknowledged);
    }
    let manifests = ManifestStore::new(host.store.clone());
    let admin = admin_of(process, &manifests, &host.root_keys);
    let name = format!("s{}", random.below(4));
    let made = admin::create_snapshot(&admin, &site.image, &name, Some(version)).await;
    made.map_err(told)?;
    site.journal.mark("a snapshot was made of a running image");
    Ok(())
}

async fn roll_back(
    site: &Site,
    process: &Process,
    host: &Host,
    image: &Image,
    random: &RandomStream,
) -> Result<(), EngineError> {
    let versions = versions_of(site, process, host).await?;
    if versions.is_empty() {
        return Ok(());
    }
    let to = Version(random.pick(&versions));
    site.journal
        .note(&process.name, format_args!("rolls back to {to}"));
    // As the command line does, so that it can be undone; or not, or while one is under way.
    let kept = match random.below(3) {
        0 => {
            let acknowledged = site.model.acknowledged_of(&process.name);
            image.checkpoint().await?;
            acknowledged
        }
        _ => None,
    };
    let during_checkpoint = kept.is_none() && random.chance(600);
    site.model.rollback_asked(&process.name);
    let checkpoint = async {
        if during_checkpoint {
            Some(image.checkpoint().await)
        } else {
            None
        }
    };
    let rollback = async {
        if during_checkpoint {
            sleep(random.duration(Duration::from_millis(1), Duration::from_secs(1))).await;
        }
        image.roll_back(to).await
    };
    let (checkpoint, done) = join(checkpoint, rollback).await;
    if matches!(checkpoint, Some(Err(EngineError::Aborted { .. }))) {
        site.journal.mark("a rollback ended a checkpoint");
    }
    let done = match done {
        Ok(done) => done,
        Err(error) => {
            site.model.rollback_refused(&process.name);
            return Err(error);
        }
    };
    site.model.rolled_back_to(&process.name, done.lsn);
    if let Some(kept) = kept {
        site.model
            .rollback_kept(&process.name, done.undo_version, kept);
    }
    site.journal.note(
        &process.name,
        format_args!("rolled back to {to} at LSN {}", done.lsn),
    );
    Ok(())
}

/// Versions that it may go back to.
async fn versions_of(site: &Site, process: &Process, host: &Host) -> Result<Vec<u64>, EngineError> {
    let manifests = ManifestStore::new(host.store.clone());
    let admin = admin_of(process, &manifests, &host.root_keys);
    let kept = admin::versions(&admin, &site.image, VERSIONS_MAX).await;
    let kept = kept.map_err(told)?;
    Ok(kept.versions.iter().map(|it| it.version).collect())
}

fn admin_of<'a>(
    process: &'a Process,
    manifests: &'a ManifestStore,
    root_keys: &'a RootKeys,
) -> Admin<'a> {
    Admin {
        manifests,
        clock: &*process.environment.clock,
        entropy: &*process.environment.entropy,
        root_keys,
    }
}
