//! Frames on the local disk: found, verified, and brought to memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};

use super::FrameReads;
use super::wanted::{ImageFrames, WantedFrame};
use crate::engine::read::single_flight::NewRequest;
use crate::env::SpawnerExt;
use crate::format::frame::{Frame, decode_frame};

impl FrameReads {
    /// Those of the wanted frames that are on the disk, or came to memory since the caller looked, in
    /// their order. Each has a flight of its own: who wants one that is there does not wait for
    /// the store because somebody else wants one that is not.
    pub(super) async fn on_disk(
        &self,
        coding: &ImageFrames,
        wanted: &[WantedFrame],
    ) -> Vec<Option<Arc<Frame>>> {
        let keys: Vec<_> = wanted.iter().map(WantedFrame::key).collect();
        let is_alone = wanted.len() == 1;
        let flights = self.disk_flights.join(&keys, |missing| {
            let mut open = missing.clone();
            let new = wanted.iter().filter(|frame| open.remove(&frame.key()));
            let new = new.map(|frame| NewRequest {
                keys: vec![frame.key()],
                request: match self.cache.peek(&frame.key()) {
                    Some(cached) => std::future::ready(Some(cached)).boxed(),
                    None => self.read_disk(coding.clone(), frame.clone(), is_alone),
                },
            });
            new.collect()
        });
        join_all(flights).await
    }

    fn read_disk(
        &self,
        coding: ImageFrames,
        wanted: WantedFrame,
        is_alone: bool,
    ) -> BoxFuture<'static, Option<Arc<Frame>>> {
        let (disk, spawner) = (self.disk.clone(), Arc::clone(&self.spawner));
        let (cache, counts) = (Arc::clone(&self.cache), Arc::clone(&self.counts));
        let read = async move {
            let stored = disk.stored(wanted.piece()).await?;
            let (seed, page_size) = (wanted.object.seed(), coding.page_size);
            let key = wanted.object.segment_key(&coding.keys);
            let decode = move || decode_frame(seed, page_size, key.as_ref(), &stored);
            // One is decoded as fast as it is handed to another thread.
            let decoded = match is_alone {
                true => decode(),
                false => spawner.run(decode).await,
            };
            // An intact frame of the same segment may still be another one.
            let decoded = decoded.map_err(|error| error.to_string());
            let decoded = decoded.and_then(|frame| match frame.pages.contains(&wanted.page) {
                true => Ok(Arc::new(frame)),
                false => Err(format!("page {} is not in it", wanted.page)),
            });
            let frame = disk.accept(wanted.piece(), decoded)?;
            cache.insert(wanted.key(), Arc::clone(&frame));
            counts.disk.fetch_add(1, Ordering::Relaxed);
            Some(frame)
        };
        read.boxed()
    }
}
