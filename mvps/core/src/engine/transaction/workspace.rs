//! What a transaction read and wrote, and the view that it reads: its side of it, and the task's.
//!
//! Invariant: once a transaction is aborted, its view and its workspace are released, even if the
//! client never asks for anything again.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::content::{Content, ContentPiece};
use crate::engine::buffer::changes::Change;
use crate::engine::buffer::{Advance, RECORD_OVERHEAD_BYTES, RangeMap};
use crate::engine::error::EngineError;
use crate::engine::read::{Base, Extent, View};
use crate::engine::transaction_budget::TransactionReservation;
use crate::ids::{PageNumber, PageSize};

/// What a transaction keeps, until it ends or is aborted. The lock is never held across an await.
pub struct Pinned(Mutex<Result<Kept, &'static str>>);

struct Kept {
    view: Arc<View>,
    workspace: Workspace,
}

impl Pinned {
    /// Pins `view` for a transaction that has done nothing yet.
    #[must_use]
    pub fn new(view: Arc<View>) -> Self {
        let workspace = Workspace::default();
        Self(Mutex::new(Ok(Kept { view, workspace })))
    }

    fn lock(&self) -> MutexGuard<'_, Result<Kept, &'static str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> Result<T, EngineError> {
        match &mut *self.lock() {
            Ok(kept) => Ok(work(kept)),
            Err(reason) => Err(EngineError::Aborted { reason }),
        }
    }

    /// The view.
    ///
    /// # Errors
    /// [`EngineError::Aborted`] once the transaction was aborted.
    pub fn view(&self) -> Result<Arc<View>, EngineError> {
        self.with(|kept| Arc::clone(&kept.view))
    }

    /// Does `work` with what the transaction read and wrote.
    ///
    /// # Errors
    /// [`EngineError::Aborted`] once the transaction was aborted.
    pub fn workspace<T>(&self, work: impl FnOnce(&mut Workspace) -> T) -> Result<T, EngineError> {
        self.with(|kept| work(&mut kept.workspace))
    }

    pub(super) fn move_to(&self, view: Arc<View>) {
        if let Ok(kept) = &mut *self.lock() {
            kept.view = view;
        }
    }

    /// Lets go of everything. Only the first reason counts.
    pub fn end(&self, reason: &'static str) {
        let mut kept = self.lock();
        if kept.is_ok() {
            let ended = std::mem::replace(&mut *kept, Err(reason));
            drop(kept);
            drop(ended);
        }
    }
}

/// Content that the transaction gave to a run of pages.
#[derive(Debug, Clone)]
pub(in crate::engine) enum Written {
    Data {
        /// From the first of the pages on.
        data: Bytes,
        page_size: PageSize,
        /// What `data` keeps in memory: all that the client wrote at once.
        kept_bytes: usize,
    },
    Hole,
}

impl Advance for Written {
    fn advance(&self, pages: u64) -> Self {
        match self {
            Self::Hole => Self::Hole,
            Self::Data {
                data,
                page_size,
                kept_bytes,
            } => {
                let skip = usize::try_from(pages << page_size.bits()).expect("within the data");
                Self::Data {
                    data: data.slice(skip..),
                    page_size: *page_size,
                    kept_bytes: *kept_bytes,
                }
            }
        }
    }
}

impl Written {
    pub(in crate::engine) fn data(data: Bytes, page_size: PageSize) -> Self {
        Self::Data {
            kept_bytes: data.len(),
            data,
            page_size,
        }
    }
}

/// What a transaction wrote. A read takes a clone along, which keeps it in memory for as long as
/// the read goes on, and so keeps its reservation, too.
#[derive(Clone, Default)]
pub(in crate::engine) struct Writes {
    pub(in crate::engine) runs: RangeMap<Written>,
    /// Of the budget for the bytes that transactions write.
    pub(in crate::engine) reservation: Arc<TransactionReservation>,
}

/// What a transaction read and wrote.
#[derive(Default)]
pub(in crate::engine) struct Workspace {
    pub(in crate::engine) writes: Writes,
    pub(in crate::engine) reads: RangeMap<()>,
}

/// What a change counts towards the transaction's limit of written bytes.
pub(in crate::engine) fn cost(change: &Change, page_size: PageSize) -> u64 {
    match change {
        Change::Pages { data, .. } => data.len() as u64,
        Change::Patch { .. } => page_size.bytes() as u64,
        Change::Hole { .. } => RECORD_OVERHEAD_BYTES,
    }
}

pub(in crate::engine) fn change(pages: Range<PageNumber>, written: &Written) -> Change {
    match written {
        Written::Hole => Change::Hole { pages },
        Written::Data {
            data,
            page_size,
            kept_bytes,
        } => {
            let length = usize::try_from((pages.end.0 - pages.start.0) << page_size.bits());
            let mut data = data.slice(..length.expect("within the data"));
            // The buffer keeps it for long, and counts what is written, not what that keeps alive.
            if data.len() < kept_bytes / 2 {
                data = Bytes::copy_from_slice(&data);
            }
            Change::Pages {
                first: pages.start,
                data,
            }
        }
    }
}

/// Reads `writes` over `view`.
pub(in crate::engine) async fn read_over(
    view: &View,
    Writes { runs, .. }: &Writes,
    offset: u64,
    length: usize,
) -> Result<Content, EngineError> {
    if runs.is_empty() || length == 0 {
        return view.read(offset, length).await;
    }
    let page_size = view.page_size;
    let end = offset + length as u64;
    let mut pieces = Vec::new();
    for run in runs.runs(page_size.page_of(offset)..page_size.page_of(end - 1).next()) {
        let start = page_size.offset_of(run.first);
        let from = offset.max(start);
        let to = end.min(page_size.offset_of(run.end()));
        let bytes = usize::try_from(to - from).expect("a request fits memory");
        match run.value {
            None => pieces.extend(view.read(from, bytes).await?.pieces),
            Some(Written::Data { data, .. }) => {
                let skip = usize::try_from(from - start).expect("within the data");
                pieces.push(ContentPiece::Data(data.slice(skip..skip + bytes)));
            }
            Some(Written::Hole) => pieces.push(ContentPiece::Hole(bytes)),
        }
    }
    Ok(Content { pieces })
}

/// The extents of `writes` over `view`.
pub(in crate::engine) async fn extents_over(
    view: &View,
    Writes { runs, .. }: &Writes,
    range: Range<u64>,
    base: Option<&Base>,
    extents_max: usize,
) -> Result<Vec<Extent>, EngineError> {
    let page_size = view.page_size;
    let pages = page_size.page_of(range.start)..page_size.page_of(range.end - 1).next();
    let mut extents: Vec<Extent> = Vec::new();
    for run in runs.runs(pages) {
        let from = range.start.max(page_size.offset_of(run.first));
        let to = range.end.min(page_size.offset_of(run.end()));
        // Its own holes are changes, too: what the base has there, nobody asks.
        let is_set = match &run.value {
            None => None,
            Some(Written::Data { .. }) => Some(true),
            Some(Written::Hole) => Some(base.is_some()),
        };
        let found = match is_set {
            None => view.extents(from..to, base, extents_max).await?,
            Some(is_set) => vec![Extent {
                length_bytes: to - from,
                is_set,
            }],
        };
        let seen: u64 = found.iter().map(|extent| extent.length_bytes).sum();
        for extent in found {
            let is_full = extents.len() == extents_max;
            match extents.last_mut() {
                Some(last) if last.is_set == extent.is_set => {
                    last.length_bytes += extent.length_bytes;
                }
                _ if is_full => return Ok(extents),
                _ => extents.push(extent),
            }
        }
        if seen < to - from {
            break;
        }
    }
    Ok(extents)
}
