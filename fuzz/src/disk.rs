//! A disk of a few pages in memory, on which everything happens at once, and whom it is shown to.
//!
//! Because nothing waits, replies come in the order of requests, and what each must be is known
//! exactly. That the engine does the same in its own time is what [`crate::session`] looks at.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use mvps_core::content::{Content, ContentPiece};
use mvps_core::engine::{Acknowledge, Durability, EngineError, Extent, Since};
use mvps_core::ids::Version;
use mvps_core::nbd::{ContextName, ContextsRequest, Export, ExportName, Refusal};
use mvps_core::session::{
    Admission, Admitted, Disk, DiskTransaction, FairScheduler, Order, PayloadBudget, ReadAt,
    WriteAt,
};
use tokio::sync::watch;

pub const PAGE_BYTES: u64 = 4096;
pub const SIZE_BYTES: u64 = 16 * PAGE_BYTES;

/// Content, shared by its clones.
#[derive(Clone)]
pub struct FlatDisk(Arc<Mutex<Vec<u8>>>);

impl FlatDisk {
    pub fn new() -> Self {
        let size = usize::try_from(SIZE_BYTES).expect("it is small");
        Self(Arc::new(Mutex::new(vec![0; size])))
    }

    pub fn content(&self) -> Vec<u8> {
        self.0.lock().expect("one thread").clone()
    }

    fn change(&self, change: &Change) {
        change.apply(&mut self.0.lock().expect("one thread"));
    }
}

/// What a request does to content.
#[derive(Debug, Clone)]
pub enum Change {
    Write(u64, Bytes),
    Zero(u64, u64),
    Trim(u64, u64),
}

impl Change {
    /// Does it.
    pub fn apply(&self, content: &mut [u8]) {
        let index = |at: u64| usize::try_from(at).expect("within the disk");
        match self {
            Self::Write(offset, data) => {
                content[index(*offset)..][..data.len()].copy_from_slice(data);
            }
            Self::Zero(offset, length) => content[index(*offset)..][..index(*length)].fill(0),
            Self::Trim(offset, length) => {
                let first = offset.next_multiple_of(PAGE_BYTES);
                let end = (offset + length) / PAGE_BYTES * PAGE_BYTES;
                if first < end {
                    content[index(first)..index(end)].fill(0);
                }
            }
        }
    }
}

/// What is set in `range` of `content`: a page is unless it holds only zeroes. At most `count_max`
/// extents, from the beginning.
pub fn extents(content: &[u8], range: &Range<u64>, count_max: usize) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let page = at / PAGE_BYTES * PAGE_BYTES;
        let end = (page + PAGE_BYTES).min(range.end);
        let page = usize::try_from(page).expect("within the disk");
        let page_bytes = usize::try_from(PAGE_BYTES).expect("it is small");
        let is_set = content[page..][..page_bytes].iter().any(|byte| *byte != 0);
        let count = extents.len();
        match extents.last_mut() {
            Some(last) if last.is_set == is_set => last.length_bytes += end - at,
            _ if count == count_max => break,
            _ => extents.push(Extent {
                length_bytes: end - at,
                is_set,
            }),
        }
        at = end;
    }
    extents
}

fn read(content: &[u8], offset: u64, length: u32) -> Content {
    let offset = usize::try_from(offset).expect("within the disk");
    let content = &content[offset..][..length as usize];
    let middle = content.len() / 3;
    let pieces = [&content[..middle], &content[middle..]].map(|part| {
        match part.iter().all(|byte| *byte == 0) {
            true => ContentPiece::Hole(part.len()),
            false => ContentPiece::Data(Bytes::copy_from_slice(part)),
        }
    });
    Content {
        pieces: pieces.into(),
    }
}

impl ReadAt for FlatDisk {
    type Base = ();

    async fn read(&self, offset: u64, length: u32) -> Result<Content, EngineError> {
        Ok(read(&self.content(), offset, length))
    }

    async fn extents(
        &self,
        range: Range<u64>,
        _: Option<&()>,
        count_max: usize,
    ) -> Result<Vec<Extent>, EngineError> {
        Ok(extents(&self.content(), &range, count_max))
    }
}

impl WriteAt for FlatDisk {
    type When = Acknowledge;

    async fn write(&self, offset: u64, data: Bytes, _: Acknowledge) -> Result<(), EngineError> {
        self.change(&Change::Write(offset, data));
        Ok(())
    }

    async fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        _: Acknowledge,
    ) -> Result<(), EngineError> {
        self.change(&Change::Zero(offset, length));
        Ok(())
    }

    async fn trim(&self, offset: u64, length: u64, _: Acknowledge) -> Result<(), EngineError> {
        self.change(&Change::Trim(offset, length));
        Ok(())
    }
}

impl Disk for FlatDisk {
    type Transaction = FlatTransaction;

    async fn find_base(&self, _: &Since) -> Result<Version, EngineError> {
        Ok(Version(1))
    }

    async fn base(&self, _: Version) -> Result<(), EngineError> {
        Ok(())
    }

    async fn prefetch(&self, _: u64, _: u64) -> Result<(), EngineError> {
        Ok(())
    }

    async fn flush(&self, _: Durability) -> Result<(), EngineError> {
        Ok(())
    }

    async fn revoke(&self) {}

    async fn begin(&self) -> Result<FlatTransaction, EngineError> {
        Ok(FlatTransaction {
            disk: self.clone(),
            content: Mutex::new(self.content()),
            changes: Mutex::default(),
        })
    }
}

/// A transaction: nobody else writes, so none conflicts.
pub struct FlatTransaction {
    disk: FlatDisk,
    content: Mutex<Vec<u8>>,
    changes: Mutex<Vec<Change>>,
}

impl FlatTransaction {
    fn change(&self, change: Change) {
        change.apply(&mut self.content.lock().expect("one thread"));
        self.changes.lock().expect("one thread").push(change);
    }
}

impl ReadAt for FlatTransaction {
    type Base = ();

    async fn extents(
        &self,
        range: Range<u64>,
        _: Option<&()>,
        count_max: usize,
    ) -> Result<Vec<Extent>, EngineError> {
        let content = self.content.lock().expect("one thread");
        Ok(extents(&content, &range, count_max))
    }

    async fn read(&self, offset: u64, length: u32) -> Result<Content, EngineError> {
        Ok(read(
            &self.content.lock().expect("one thread"),
            offset,
            length,
        ))
    }
}

impl WriteAt for FlatTransaction {
    type When = ();

    async fn write(&self, offset: u64, data: Bytes, (): ()) -> Result<(), EngineError> {
        self.change(Change::Write(offset, data));
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, length: u64, (): ()) -> Result<(), EngineError> {
        self.change(Change::Zero(offset, length));
        Ok(())
    }

    async fn trim(&self, offset: u64, length: u64, (): ()) -> Result<(), EngineError> {
        self.change(Change::Trim(offset, length));
        Ok(())
    }
}

impl DiskTransaction for FlatTransaction {
    async fn lock(&self) -> Result<(), EngineError> {
        Ok(())
    }

    async fn commit(self, _: Acknowledge) -> Result<(), EngineError> {
        for change in self.changes.lock().expect("one thread").drain(..) {
            self.disk.change(&change);
        }
        Ok(())
    }
}

/// Shows one disk to everybody whose export name does not begin with `x` (not permitted) or `u`
/// (unknown).
pub struct Everybody {
    pub disk: FlatDisk,
    pub read_only: bool,
    orders: watch::Sender<Order>,
}

impl Everybody {
    pub fn new(disk: &FlatDisk, read_only: bool) -> Self {
        Self {
            disk: disk.clone(),
            read_only,
            orders: watch::Sender::new(Order::Serve),
        }
    }
}

impl Admission for Everybody {
    type Disk = FlatDisk;

    async fn describe(&self, name: &ExportName) -> Result<Export, Refusal> {
        match name.reveal().as_bytes().first() {
            Some(b'x') => return Err(Refusal::Policy),
            Some(b'u') => {
                let message = "no such image".into();
                return Err(Refusal::Unknown { message });
            }
            _ => {}
        }
        Ok(Export {
            size_bytes: SIZE_BYTES,
            preferred_block_bytes: u32::try_from(PAGE_BYTES).expect("it is small"),
            read_only: self.read_only,
            can_multi_conn: true,
            name: "disk0".to_owned(),
            description: "mvps image disk0".to_owned(),
        })
    }

    async fn contexts(&self, request: &ContextsRequest) -> Result<Vec<ContextName>, Refusal> {
        self.describe(&request.name).await?;
        Ok(vec![ContextName::Allocation])
    }

    async fn attach(&self, name: &ExportName) -> Result<Admitted<FlatDisk>, Refusal> {
        Ok(Admitted {
            export: self.describe(name).await?,
            disk: self.disk.clone(),
            durability: Durability::Local,
            orders: self.orders.subscribe(),
            budget: PayloadBudget::new(),
            scheduler: FairScheduler::new(1),
        })
    }
}
