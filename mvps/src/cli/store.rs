//! The object store that the flags of an operator's command name.

use std::sync::Arc;
use std::time::Duration;

use mvps_core::protocol::ManifestStore;
use mvps_core::store::{Patience, RetryingStore, probe_conditional_create};

use super::args::ObjectStoreArgs;
use crate::daemon::open_object_store;
use crate::runtime::{OsEntropy, TokioClock};

/// An operator waits for a slow object store, but not for ever.
const OBJECT_STORE_PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn open_store(args: &ObjectStoreArgs) -> anyhow::Result<RetryingStore> {
    let choice = args.choice()?;
    let objects = open_object_store(&choice).await?;
    let store = RetryingStore::new(objects, Arc::new(TokioClock::new()), Arc::new(OsEntropy));
    Ok(store.with_patience(Patience::For(OBJECT_STORE_PATIENCE)))
}

pub(super) async fn open_manifests(args: &ObjectStoreArgs) -> anyhow::Result<ManifestStore> {
    Ok(ManifestStore::new(open_store(args).await?))
}

/// For a command that publishes, which is safe only where conditional creates work.
pub(super) async fn open_manifests_to_publish(
    args: &ObjectStoreArgs,
) -> anyhow::Result<ManifestStore> {
    let store = open_store(args).await?;
    probe_conditional_create(&store, args.unsafe_no_fencing)
        .await
        // The error's own text has its source's already.
        .map_err(|error| anyhow::anyhow!("nothing was changed: {error}"))?;
    Ok(ManifestStore::new(store))
}
