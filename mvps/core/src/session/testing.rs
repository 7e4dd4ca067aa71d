//! A disk in memory that writes down what it is asked, and waits or fails on demand.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::watch;

use super::connection::{Admission, Admitted, Order};
use super::disk::{Disk, DiskTransaction, ReadAt, WriteAt};
use super::fair_scheduler::FairScheduler;
use super::payload_budget::PayloadBudget;
use crate::content::{Content, ContentPiece};
use crate::engine::{Acknowledge, Durability, EngineError, Extent, Since};
use crate::ids::Version;
use crate::nbd::{self, ContextName, ContextQuery, ContextsRequest, Export, ExportName, Refusal};

pub(crate) const SIZE_BYTES: usize = 8 * 1024 * 1024;
pub(crate) const PAGE_BYTES: usize = 4096;

#[derive(Debug)]
struct State {
    content: Vec<u8>,
    log: Vec<String>,
    failures: VecDeque<EngineError>,
    /// Whether every other page counts as set, whatever the content.
    is_fragmented: bool,
}

/// A disk that writes down what it is asked. Clones are one disk.
#[derive(Clone)]
pub(crate) struct MemoryDisk {
    state: Arc<Mutex<State>>,
    /// Whether changes and barriers may finish.
    running: Arc<watch::Sender<bool>>,
    /// Reads whose content is still kept.
    lent: Arc<AtomicUsize>,
}

/// What was read, as long as a slice of it is kept.
struct Lent {
    content: Vec<u8>,
    count: Arc<AtomicUsize>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

impl MemoryDisk {
    pub(crate) fn new() -> Self {
        let state = State {
            content: vec![0; SIZE_BYTES],
            log: Vec::new(),
            failures: VecDeque::new(),
            is_fragmented: false,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            running: Arc::new(watch::Sender::new(true)),
            lent: Arc::default(),
        }
    }

    /// How many reads' content is still kept, all or a slice of it.
    pub(crate) fn lent(&self) -> usize {
        self.lent.load(Ordering::SeqCst)
    }

    /// From now on there are as many extents as there can be.
    pub(crate) fn fragment(&self) {
        self.state.lock().unwrap().is_fragmented = true;
    }

    /// Holds changes up, or lets them go.
    pub(crate) fn set_running(&self, running: bool) {
        self.running.send_replace(running);
    }

    /// The next call fails.
    pub(crate) fn fail_next(&self, error: EngineError) {
        self.state.lock().unwrap().failures.push_back(error);
    }

    /// What was asked since the last time, in order.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    pub(crate) fn content(&self, offset: usize, length: usize) -> Vec<u8> {
        self.state.lock().unwrap().content[offset..offset + length].to_vec()
    }

    fn note(&self, call: String) -> Result<(), EngineError> {
        let mut state = self.state.lock().unwrap();
        state.log.push(call);
        match state.failures.pop_front() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    async fn wait(&self) {
        let mut running = self.running.subscribe();
        let _ = running.wait_for(|running| *running).await;
    }

    fn store(&self, offset: u64, data: &[u8]) {
        let offset = usize::try_from(offset).unwrap();
        self.state.lock().unwrap().content[offset..offset + data.len()].copy_from_slice(data);
    }
}

/// Several pieces, as the engine answers.
fn pieces(content: Bytes) -> Content {
    let third = content.len() / 3;
    let thirds = [0..third, third..2 * third, 2 * third..content.len()];
    let pieces = thirds.map(|part| {
        let part = content.slice(part);
        match part.iter().any(|byte| *byte != 0) {
            true => ContentPiece::Data(part),
            false => ContentPiece::Hole(part.len()),
        }
    });
    Content {
        pieces: pieces.into(),
    }
}

/// By page; all of `range` is answered for.
fn extents(content: &[u8], base: Option<&Vec<u8>>, range: Range<u64>) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    let page_bytes = PAGE_BYTES as u64;
    let mut from = range.start;
    while from < range.end {
        let page = usize::try_from(from / page_bytes).unwrap() * PAGE_BYTES;
        let to = (page as u64 + page_bytes).min(range.end);
        let now = &content[page..page + PAGE_BYTES];
        let is_set = match base {
            Some(base) => now != &base[page..page + PAGE_BYTES],
            None => now.iter().any(|byte| *byte != 0),
        };
        match extents.last_mut() {
            Some(last) if last.is_set == is_set => last.length_bytes += to - from,
            _ => extents.push(Extent {
                length_bytes: to - from,
                is_set,
            }),
        }
        from = to;
    }
    extents
}

/// Whole pages, set by turns.
fn pages(range: &Range<u64>) -> Vec<Extent> {
    let page_bytes = PAGE_BYTES as u64;
    let pages = range.start / page_bytes..range.end / page_bytes;
    let page = |number: u64| Extent {
        length_bytes: page_bytes,
        is_set: number.is_multiple_of(2),
    };
    pages.map(page).collect()
}

impl ReadAt for MemoryDisk {
    /// The content that there was.
    type Base = Vec<u8>;

    async fn read(&self, offset: u64, length: u32) -> Result<Content, EngineError> {
        self.note(format!("read {offset}+{length}"))?;
        let content = self.content(usize::try_from(offset).unwrap(), length as usize);
        self.lent.fetch_add(1, Ordering::SeqCst);
        let count = Arc::clone(&self.lent);
        Ok(pieces(Bytes::from_owner(Lent { content, count })))
    }

    async fn extents(
        &self,
        range: Range<u64>,
        base: Option<&Vec<u8>>,
        extents_max: usize,
    ) -> Result<Vec<Extent>, EngineError> {
        self.note(format!("extents {}..{}", range.start, range.end))?;
        let is_fragmented = self.state.lock().unwrap().is_fragmented;
        let mut extents = match is_fragmented {
            true => pages(&range),
            false => extents(&self.content(0, SIZE_BYTES), base, range),
        };
        extents.truncate(extents_max);
        Ok(extents)
    }
}

impl WriteAt for MemoryDisk {
    type When = Acknowledge;

    async fn write(&self, offset: u64, data: Bytes, when: Acknowledge) -> Result<(), EngineError> {
        self.note(format!("write {offset}+{} {when:?}", data.len()))?;
        self.wait().await;
        self.store(offset, &data);
        Ok(())
    }

    async fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        when: Acknowledge,
    ) -> Result<(), EngineError> {
        self.note(format!("zero {offset}+{length} {when:?}"))?;
        self.wait().await;
        self.store(offset, &vec![0; usize::try_from(length).unwrap()]);
        Ok(())
    }

    async fn trim(&self, offset: u64, length: u64, when: Acknowledge) -> Result<(), EngineError> {
        self.note(format!("trim {offset}+{length} {when:?}"))?;
        self.wait().await;
        Ok(())
    }
}

impl Disk for MemoryDisk {
    type Transaction = MemoryTransaction;

    async fn find_base(&self, since: &Since) -> Result<Version, EngineError> {
        self.note(format!("find base {since:?}"))?;
        Ok(Version(7))
    }

    async fn base(&self, version: Version) -> Result<Vec<u8>, EngineError> {
        self.note(format!("base {version}"))?;
        Ok(vec![0; SIZE_BYTES])
    }

    async fn prefetch(&self, offset: u64, length: u64) -> Result<(), EngineError> {
        self.note(format!("prefetch {offset}+{length}"))
    }

    async fn flush(&self, durability: Durability) -> Result<(), EngineError> {
        self.note(format!("flush {durability:?}"))?;
        self.wait().await;
        Ok(())
    }

    async fn revoke(&self) {
        self.note("revoke".to_owned()).unwrap();
    }

    async fn begin(&self) -> Result<MemoryTransaction, EngineError> {
        self.note("begin".to_owned())?;
        self.wait().await;
        Ok(MemoryTransaction {
            disk: self.clone(),
            writes: Mutex::new(Vec::new()),
            ended: false,
        })
    }
}

pub(crate) struct MemoryTransaction {
    disk: MemoryDisk,
    writes: Mutex<Vec<(u64, Bytes)>>,
    ended: bool,
}

impl MemoryTransaction {
    fn change(&self, offset: u64, data: Bytes) {
        self.writes.lock().unwrap().push((offset, data));
    }
}

impl MemoryTransaction {
    fn content(&self, begin: usize, length: usize) -> Vec<u8> {
        let mut content = self.disk.content(begin, length);
        for (at, data) in self.writes.lock().unwrap().iter() {
            for (position, byte) in (usize::try_from(*at).unwrap()..).zip(data.iter()) {
                if let Some(place) = position.checked_sub(begin)
                    && let Some(old) = content.get_mut(place)
                {
                    *old = *byte;
                }
            }
        }
        content
    }
}

impl ReadAt for MemoryTransaction {
    type Base = Vec<u8>;

    async fn read(&self, offset: u64, length: u32) -> Result<Content, EngineError> {
        self.disk.note(format!("txn read {offset}+{length}"))?;
        let content = self.content(usize::try_from(offset).unwrap(), length as usize);
        Ok(pieces(Bytes::from(content)))
    }

    async fn extents(
        &self,
        range: Range<u64>,
        base: Option<&Vec<u8>>,
        _: usize,
    ) -> Result<Vec<Extent>, EngineError> {
        self.disk.note("txn extents".to_owned())?;
        Ok(extents(&self.content(0, SIZE_BYTES), base, range))
    }
}

impl WriteAt for MemoryTransaction {
    type When = ();

    async fn write(&self, offset: u64, data: Bytes, (): ()) -> Result<(), EngineError> {
        self.disk
            .note(format!("txn write {offset}+{}", data.len()))?;
        self.disk.wait().await;
        self.change(offset, data);
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, length: u64, (): ()) -> Result<(), EngineError> {
        self.disk.note(format!("txn zero {offset}+{length}"))?;
        self.change(offset, vec![0; usize::try_from(length).unwrap()].into());
        Ok(())
    }

    async fn trim(&self, offset: u64, length: u64, (): ()) -> Result<(), EngineError> {
        self.disk.note(format!("txn trim {offset}+{length}"))?;
        self.change(offset, vec![0; usize::try_from(length).unwrap()].into());
        Ok(())
    }
}

impl DiskTransaction for MemoryTransaction {
    async fn lock(&self) -> Result<(), EngineError> {
        self.disk.note("lock".to_owned())?;
        self.disk.wait().await;
        Ok(())
    }

    async fn commit(mut self, when: Acknowledge) -> Result<(), EngineError> {
        self.ended = true;
        self.disk.note(format!("commit {when:?}"))?;
        self.disk.wait().await;
        for (offset, data) in self.writes.lock().unwrap().drain(..) {
            self.disk.store(offset, &data);
        }
        Ok(())
    }
}

impl Drop for MemoryTransaction {
    fn drop(&mut self) {
        if !self.ended {
            self.disk.note("rollback".to_owned()).unwrap();
        }
    }
}

/// Admits everybody who knows the word "token", to one disk.
pub(crate) struct OneDisk {
    pub(crate) disk: MemoryDisk,
    pub(crate) read_only: bool,
    pub(crate) durability: Durability,
    pub(crate) orders: watch::Sender<Order>,
    pub(crate) budget: PayloadBudget,
    pub(crate) scheduler: FairScheduler,
}

impl OneDisk {
    pub(crate) fn new(disk: &MemoryDisk) -> Self {
        Self {
            disk: disk.clone(),
            read_only: false,
            durability: Durability::Local,
            orders: watch::Sender::new(Order::Serve),
            budget: PayloadBudget::default(),
            scheduler: FairScheduler::new(1),
        }
    }
}

impl Admission for OneDisk {
    type Disk = MemoryDisk;

    async fn describe(&self, name: &ExportName) -> Result<Export, Refusal> {
        if name.reveal() != "token" {
            return Err(Refusal::Policy);
        }
        Ok(Export {
            size_bytes: SIZE_BYTES as u64,
            preferred_block_bytes: u32::try_from(PAGE_BYTES).unwrap(),
            read_only: self.read_only,
            can_multi_conn: true,
            name: "disk0".to_owned(),
            description: "mvps image disk0".to_owned(),
        })
    }

    /// `base:allocation`, and version 7 to compare with, which is empty.
    async fn contexts(&self, request: &ContextsRequest) -> Result<Vec<ContextName>, Refusal> {
        self.describe(&request.name).await?;
        let has = [
            ContextName::Allocation,
            ContextName::ChangedSince(nbd::Since::Version(7)),
        ];
        let asked = |name: &ContextName| {
            let query = ContextQuery::Name(name.clone());
            request.queries.is_empty() || request.queries.contains(&query)
        };
        Ok(has.into_iter().filter(asked).collect())
    }

    async fn attach(&self, name: &ExportName) -> Result<Admitted<MemoryDisk>, Refusal> {
        Ok(Admitted {
            export: self.describe(name).await?,
            disk: self.disk.clone(),
            durability: self.durability,
            orders: self.orders.subscribe(),
            budget: self.budget.clone(),
            scheduler: self.scheduler.clone(),
        })
    }
}
