//! Finding again what earlier processes wrote.
//!
//! A slab counts if its header says that the index at hand describes it. The others go: nothing
//! leads to what is in them. Reading all their entries to make an index of them takes as long as
//! reading the whole cache, so a cache whose index is lost begins cold.

use std::io;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::cache::{Counts, Shared, SlabCache, State};
use super::index::CacheIndex;
use super::settings::{CacheOpenError, SlabCacheSettings};
use super::slab::{Slab, is_slab};
use crate::env::{Entropy, Files, is_want_of_room};

impl SlabCache {
    /// Opens the cache. `open_index` is called once nobody else can have it.
    ///
    /// # Errors
    /// [`CacheOpenError`].
    ///
    /// # Panics
    /// If slabs of 4 GiB or more are asked for.
    pub async fn open<I>(
        files: Arc<dyn Files>,
        entropy: Arc<dyn Entropy>,
        settings: SlabCacheSettings,
        open_index: I,
    ) -> Result<Self, CacheOpenError>
    where
        I: Fn() -> io::Result<Arc<dyn CacheIndex>> + Send + 'static,
    {
        let is_short = u32::try_from(settings.slab_bytes).is_ok();
        assert!(is_short, "places in slabs have 32 bits");
        let (sender, receiver) = oneshot::channel();
        let place = Arc::clone(&files);
        files.aside(Box::new(move || {
            // Whoever does not wait any more has no use for it.
            let _ = sender.send(open(place, entropy, settings, open_index));
        }));
        let ended = |_| io::Error::other("the process ends");
        receiver.await.map_err(ended)?
    }
}

fn open(
    files: Arc<dyn Files>,
    entropy: Arc<dyn Entropy>,
    settings: SlabCacheSettings,
    open_index: impl Fn() -> io::Result<Arc<dyn CacheIndex>>,
) -> Result<SlabCache, CacheOpenError> {
    let folder = &settings.folder;
    files.make_folder(folder)?;
    let lock = files.lock(folder)?.ok_or_else(|| CacheOpenError::InUse {
        folder: files.location(folder),
    })?;
    let names = files.names(folder)?;
    let slabs = names.iter().filter(|name| is_slab(name));
    let index = open_index().or_else(|error| {
        // Nothing leads to what is in the slabs, and perhaps it is their room that is missing.
        tracing::warn!(%error, "the index of the disk cache cannot be opened: its slabs go");
        for name in slabs.clone() {
            files.remove(&format!("{folder}/{name}"))?;
        }
        open_index()
    })?;
    let mut state = State {
        limit_bytes: settings.limit_bytes,
        ..State::default()
    };
    let mut removed = 0_u64;
    let (identity, length_max) = (index.identity(), settings.slab_bytes);
    for name in files.names(folder)?.iter().filter(|name| is_slab(name)) {
        match Slab::open(&*files, folder, name, identity, length_max) {
            Ok(Some(slab)) => {
                state.last_number = state.last_number.max(slab.number);
                state.slabs.insert(slab.number, Arc::new(slab));
            }
            // It stays, and is found again when there are descriptors.
            Err(error) if is_want_of_room(&error) => {
                tracing::warn!(%error, "a slab of the disk cache is left as it is");
            }
            // It cannot be read, or nothing leads to it.
            Ok(None) | Err(_) => {
                // What cannot be removed takes room, and is tried again at the next opening.
                let _ = files.remove(&format!("{folder}/{name}"));
                removed += 1;
            }
        }
    }
    let (slabs, place) = (state.slabs.len(), files.location(folder));
    match removed {
        0 => tracing::info!(folder = place, slabs, "disk cache opened"),
        _ => tracing::warn!(
            folder = place,
            slabs,
            removed,
            "disk cache opened without slabs that its index does not know"
        ),
    }
    let counts = Counts::default();
    counts.entries.set(index.entries());
    let shared = Shared {
        files,
        index,
        entropy,
        settings,
        counts,
        state: Mutex::new(state),
        _lock: lock,
    };
    let cache = SlabCache(Arc::new(shared));
    // Of an earlier process, which had a higher limit.
    cache.begin_work();
    Ok(cache)
}
