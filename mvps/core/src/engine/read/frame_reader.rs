//! Reads pages out of frames in object storage.
//!
//! Job: [`FrameReader::try_read`] answers from the cache at once; [`FrameReader::read`] looks for
//! what is missing on the local disk, and fetches the rest in as few requests as adjacency allows;
//! neither does anything for the same frame twice at a time;
//! [`FrameReader::note_read`] keeps ahead of readers that go through the image in order.
//!
//! Invariants: a page is returned only from a frame that verified under its segment's name and that
//! says, in the slot that the map names, that it holds this page (durability D8). A reader that goes
//! away neither stops nor fails another one.
//!
//! Must never: answer from a frame that did not verify, or write.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::disk_pieces::DiskPieces;
use super::map::{Map, MapRun, PageLocation};
use super::object_cache::{Footprint, ObjectCache};
use super::read_ahead::{ReadAhead, WINDOW_MAX_BYTES};
use super::single_flight::{NewRequest, SingleFlight};
use crate::encryption::ImageKeys;
use crate::env::Spawner;
use crate::format::frame::{FRAME_MAX_BYTES, Frame};
use crate::format::manifest::ByteSpan;
use crate::format::object_name::ObjectName;
use crate::ids::{PageNumber, PageSize, PieceKey};
use crate::object_reads::{ObjectReads, Piece, ReadError};

mod levels;
mod on_disk;
mod retention;
mod span;
mod wanted;

pub use levels::FrameReadsByLevel;

use levels::LevelCounts;
use retention::Retention;
use span::{FetchedFrames, SpanRequest, spans_of};
use wanted::{FetchedFrame, ImageFrames, WantedFrame, unknown_segment, wanted};

/// One part in this many of the cache's limit is what pieces may take beyond the frames that are
/// slices of them. A sequential read wastes an eighth of what it brings, so that this suffices for
/// a cache that is full of it.
const RETAINED_UNUSED_DIVISOR: u64 = 4;

/// Requests for frames under way at once, of all images: bounds what they bring to memory to
/// 32 x 4 MiB, and leaves the store's own limit room for uploads.
const SPANS_IN_FLIGHT_MAX: usize = 32;

/// Of these, requests of one image: what others wait for does not stand behind all that one image
/// can ask for.
const IMAGE_SPANS_MAX: usize = 24;

/// Windows being prefetched at once, of all images: at four requests each, half of what may be under
/// way. What a client asks to be near must not stand before what another one waits for.
const PREFETCHES_IN_FLIGHT_MAX: usize = 4;

/// Of these, windows of one image: what another image asks for waits for no more than a few.
const IMAGE_PREFETCHES_MAX: usize = 2;

/// Walks through maps at once, of all images, that keep leaves which are in no cache: some 2 MiB each.
const WALKS_MAX: usize = 32;

/// Of these, walks of one image.
const IMAGE_WALKS_MAX: usize = 16;

/// Windows being fetched ahead at once, of all images. What does not fit is not fetched ahead.
const WINDOWS_IN_FLIGHT_MAX: usize = 4;

impl Footprint for Frame {
    fn footprint_bytes(&self) -> u64 {
        let pages = self.pages.capacity() * size_of::<PageNumber>();
        (size_of::<Self>() + pages + self.data.len()) as u64
    }
}

/// What all images of a process share: the cache and the requests under way.
pub struct FrameReads {
    reads: ObjectReads,
    spawner: Arc<dyn Spawner>,
    disk: DiskPieces,
    counts: Arc<LevelCounts>,
    cache: Arc<ObjectCache<Frame>>,
    cache_bytes: u64,
    retention: Arc<Retention>,
    disk_flights: SingleFlight<PieceKey, Option<Arc<Frame>>>,
    flights: SingleFlight<PieceKey, FetchedFrames>,
    spans: Arc<Semaphore>,
    windows: Arc<Semaphore>,
    prefetches: Semaphore,
    walks: Semaphore,
}

impl FrameReads {
    /// Frames of this store, of which at most `cache_bytes` are kept.
    #[must_use]
    pub fn new(reads: ObjectReads, spawner: Arc<dyn Spawner>, cache_bytes: u64) -> Self {
        Self {
            reads,
            spawner,
            disk: DiskPieces::default(),
            counts: Arc::default(),
            cache: Arc::new(ObjectCache::new(cache_bytes, FRAME_MAX_BYTES as u64)),
            cache_bytes,
            retention: Arc::new(Retention::new(cache_bytes / RETAINED_UNUSED_DIVISOR)),
            disk_flights: SingleFlight::new(),
            flights: SingleFlight::new(),
            spans: Arc::new(Semaphore::new(SPANS_IN_FLIGHT_MAX)),
            windows: Arc::new(Semaphore::new(WINDOWS_IN_FLIGHT_MAX)),
            prefetches: Semaphore::new(PREFETCHES_IN_FLIGHT_MAX),
            walks: Semaphore::new(WALKS_MAX),
        }
    }

    /// The same, with this cache on the local disk below the one in memory.
    #[must_use]
    pub fn with_disk(self, disk: DiskPieces) -> Self {
        Self { disk, ..self }
    }

    /// The cache on the local disk, for who fills it.
    #[must_use]
    pub fn disk(&self) -> &DiskPieces {
        &self.disk
    }

    /// Where frames were found so far.
    #[must_use]
    pub fn by_level(&self) -> FrameReadsByLevel {
        self.counts.read()
    }

    /// What the cached frames take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.cache.used_bytes()
    }

    /// These frames, in their order: from the disk, or else from the store.
    async fn fetch(&self, coding: &ImageFrames, wanted: &[WantedFrame]) -> Vec<FetchedFrame> {
        if self.disk.is_off() {
            return self.fetch_from_store(coding, wanted).await;
        }
        let on_disk = self.on_disk(coding, wanted).await;
        let pairs = wanted.iter().zip(&on_disk);
        let absent = pairs.filter(|(_, found)| found.is_none());
        let absent: Vec<WantedFrame> = absent.map(|(frame, _)| frame.clone()).collect();
        let mut fetched = self.fetch_from_store(coding, &absent).await.into_iter();
        let mut next = || {
            fetched
                .next()
                .expect("one for each that is not on the disk")
        };
        let found = on_disk.into_iter();
        found
            .map(|found| found.map_or_else(&mut next, Ok))
            .collect()
    }

    async fn fetch_from_store(
        &self,
        coding: &ImageFrames,
        wanted: &[WantedFrame],
    ) -> Vec<FetchedFrame> {
        let keys: Vec<PieceKey> = wanted.iter().map(WantedFrame::key).collect();
        let mut flights = self
            .flights
            .join(&keys, |missing| self.new_requests(coding, wanted, missing));
        // Adjacent frames share a flight, which is awaited once.
        flights.dedup_by(|next, last| next.ptr_eq(last));
        let fetched = join_all(flights).await;
        let found = |key| fetched.iter().find_map(|fetched| fetched.frame(key));
        let found = keys.iter().map(found);
        found
            .map(|frame| frame.expect("a flight brings the keys that it was started for"))
            .collect()
    }

    /// Requests that bring the `missing` ones of the wanted frames. A frame that fetched in the cache
    /// since the caller looked is not asked for again.
    fn new_requests(
        &self,
        coding: &ImageFrames,
        wanted: &[WantedFrame],
        missing: &BTreeSet<PieceKey>,
    ) -> Vec<NewRequest<PieceKey, FetchedFrames>> {
        let mut requests = Vec::new();
        let mut absent = Vec::new();
        let mut open = missing.clone();
        for frame in wanted.iter().filter(|frame| open.remove(&frame.key())) {
            let key = frame.key();
            match self.cache.peek(&key) {
                Some(cached) => requests.push(NewRequest {
                    keys: vec![key],
                    request: std::future::ready(FetchedFrames::one(key, cached)).boxed(),
                }),
                None => absent.push(frame),
            }
        }
        requests.extend(spans_of(absent).map(|span| self.request_span(coding.clone(), span)));
        requests
    }

    fn request_span(
        &self,
        coding: ImageFrames,
        span: SpanRequest,
    ) -> NewRequest<PieceKey, FetchedFrames> {
        let keys = span.keys();
        let (reads, spawner) = (self.reads.clone(), Arc::clone(&self.spawner));
        let (cache, spans) = (Arc::clone(&self.cache), Arc::clone(&self.spans));
        let retention = Arc::clone(&self.retention);
        let (disk, counts) = (self.disk.clone(), Arc::clone(&self.counts));
        let request = async move {
            let _image_permit = coding.spans.acquire().await;
            let _permit = spans.acquire_owned().await;
            let fetched = span
                .fetch(&reads, spawner.as_ref(), &coding, &retention, &disk)
                .await;
            counts.store.fetch_add(fetched.len(), Ordering::Relaxed);
            fetched.keep(&cache, &retention);
            fetched
        };
        NewRequest {
            keys,
            request: request.boxed(),
        }
    }
}

/// Reads the pages of one image.
pub struct FrameReader {
    frames: Arc<FrameReads>,
    coding: ImageFrames,
    read_ahead: Mutex<ReadAhead>,
    /// Pages that reads are waiting for.
    waiting_pages: AtomicU64,
    prefetches: Semaphore,
    walks: Semaphore,
}

/// The right to keep leaves of a map that are in no cache, until dropped.
pub(super) struct Walking<'a> {
    _permits: [Option<SemaphorePermit<'a>>; 2],
}

/// Counts pages as waited for while it lives.
struct Waiting<'a> {
    count: &'a AtomicU64,
    pages: u64,
}

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU64, pages: u64) -> Self {
        count.fetch_add(pages, Ordering::Relaxed);
        Self { count, pages }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(self.pages, Ordering::Relaxed);
    }
}

impl FrameReader {
    /// A reader of an image with pages of this size and these data keys.
    #[must_use]
    pub fn new(frames: Arc<FrameReads>, page_size: PageSize, keys: Arc<ImageKeys>) -> Self {
        Self {
            frames,
            coding: ImageFrames {
                page_size,
                keys,
                spans: Arc::new(Semaphore::new(IMAGE_SPANS_MAX)),
            },
            read_ahead: Mutex::new(ReadAhead::new(page_size)),
            waiting_pages: AtomicU64::new(0),
            prefetches: Semaphore::new(IMAGE_PREFETCHES_MAX),
            walks: Semaphore::new(IMAGE_WALKS_MAX),
        }
    }

    /// The content of a run that a look-up in `map` returned, if its frame is in memory. Neither
    /// waits nor allocates.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] if the frame does not hold these pages.
    ///
    /// # Panics
    /// If the run has no location.
    pub fn try_read(&self, map: &Map, run: &MapRun) -> Result<Option<Bytes>, ReadError> {
        let location = run.location.expect("a run that is somewhere");
        let Some(object) = map.segment_name(location.frame.segment) else {
            return Err(unknown_segment(run, &location));
        };
        let key = object.piece_key(u64::from(location.frame.offset));
        match self.frames.cache.get(&key) {
            Some(frame) => {
                self.frames.counts.memory.fetch_add(1, Ordering::Relaxed);
                self.content(&frame, object, run, &location).map(Some)
            }
            None => Ok(None),
        }
    }

    /// The content of runs that a look-up in `map` returned, in their order; `None` where a run
    /// reads as zeroes. Fetches what is not in memory, adjacent frames together.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(&self, map: &Map, runs: &[MapRun]) -> Result<Vec<Option<Bytes>>, ReadError> {
        let mut contents: Vec<Option<Bytes>> = Vec::with_capacity(runs.len());
        let mut missing: Vec<(usize, WantedFrame)> = Vec::new();
        for run in runs {
            let content = match run.location {
                Some(_) => self.try_read(map, run)?,
                None => None,
            };
            if let (Some(location), None) = (run.location, &content) {
                missing.push((contents.len(), wanted(map, run, &location)?));
            }
            contents.push(content);
        }
        let pages = missing.iter().map(|(index, _)| runs[*index].pages).sum();
        let _waiting = Waiting::new(&self.waiting_pages, pages);
        let frames: Vec<WantedFrame> = missing.iter().map(|(_, frame)| frame.clone()).collect();
        let fetched = self.frames.fetch(&self.coding, &frames).await;
        for ((index, wanted), fetched) in missing.into_iter().zip(fetched) {
            let run = &runs[index];
            let location = run.location.expect("only runs with a location are missing");
            let frame = fetched?;
            contents[index] = Some(self.content(&frame, &wanted.object, run, &location)?);
        }
        Ok(contents)
    }

    /// Waits until it may keep leaves of a map that are in no cache.
    pub(super) async fn walk(&self) -> Walking<'_> {
        // They are never closed.
        let image = self.walks.acquire().await.ok();
        let all = self.frames.walks.acquire().await.ok();
        Walking {
            _permits: [image, all],
        }
    }

    /// Pages of one step of a [`Self::prefetch`] of many: no more memory than a window that is read
    /// ahead.
    pub(super) fn prefetch_window_pages(&self) -> u64 {
        WINDOW_MAX_BYTES >> self.coding.page_size.bits()
    }

    /// Pages that may be prefetched at a time: more than half of the cache would drive out what
    /// came first.
    pub(super) fn prefetch_max_pages(&self) -> u64 {
        (self.frames.cache_bytes / 2) >> self.coding.page_size.bits()
    }

    /// Brings the frames of runs that a look-up in `map` returned to the cache: a window's at most.
    /// Waits while too many of this image or of all images are being brought.
    ///
    /// # Errors
    /// [`ReadError`], the first one, once all that can be had is there.
    pub(super) async fn prefetch(&self, map: &Map, runs: &[MapRun]) -> Result<(), ReadError> {
        let _image_permit = self.prefetches.acquire().await;
        let _permit = self.frames.prefetches.acquire().await;
        let mut absent = Vec::new();
        for run in runs {
            if let Some(location) = run.location {
                let frame = wanted(map, run, &location)?;
                if self.frames.cache.peek(&frame.key()).is_none() {
                    absent.push(frame);
                }
            }
        }
        let fetched = self.frames.fetch(&self.coding, &absent).await;
        fetched.into_iter().try_for_each(|frame| frame.map(drop))
    }

    /// Takes note that `pages` are being read from object storage or its cache, and starts to fetch
    /// what a sequential reader will ask for next.
    pub fn note_read(&self, map: &Map, pages: std::ops::Range<PageNumber>) {
        let ahead = {
            // A panic cannot leave the streams in a state that matters.
            let mut streams = self
                .read_ahead
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            streams.observe(pages, self.waiting_pages.load(Ordering::Relaxed))
        };
        let Some(ahead) = ahead else {
            return;
        };
        let Ok(permit) = Arc::clone(&self.frames.windows).try_acquire_owned() else {
            return;
        };
        let (frames, map, coding) = (Arc::clone(&self.frames), map.clone(), self.coding.clone());
        let task = async move {
            // Whoever needs these pages meets the error again, and reports it.
            if let Ok(runs) = map.lookup(ahead).await {
                let absent = |frame: &WantedFrame| frames.cache.peek(&frame.key()).is_none();
                let located = runs.iter().filter_map(|run| Some((run, run.location?)));
                let frame_of = |(run, at)| wanted(&map, run, &at).ok();
                let list: Vec<_> = located.filter_map(frame_of).filter(absent).collect();
                frames.fetch(&coding, &list).await;
            }
            drop(permit);
        };
        self.frames.spawner.spawn("read ahead", task.boxed());
    }

    /// The run's pages in a frame: one slice, if the frame says that it holds them there.
    fn content(
        &self,
        frame: &Frame,
        object: &ObjectName,
        run: &MapRun,
        location: &PageLocation,
    ) -> Result<Bytes, ReadError> {
        let slot = usize::from(location.slot);
        let count = usize::try_from(run.pages).unwrap_or(usize::MAX);
        let end = slot.saturating_add(count);
        let page_bytes = self.coding.page_size.bytes();
        let expected = |pages: &[PageNumber]| {
            let numbers = run.first.0..run.first.0 + run.pages;
            pages.iter().map(|page| page.0).eq(numbers)
        };
        match frame.pages.get(slot..end) {
            Some(pages) if expected(pages) && frame.data.len() >= end * page_bytes => {
                Ok(frame.data.slice(slot * page_bytes..end * page_bytes))
            }
            _ => Err(Piece {
                object,
                span: ByteSpan {
                    offset: u64::from(location.frame.offset),
                    bytes: location.frame.stored_bytes,
                },
                page: Some(run.first),
            }
            .corrupt(format!(
                "the frame holds other pages than {} in slot {slot}",
                run.pages
            ))),
        }
    }
}

#[cfg(test)]
mod tests;
