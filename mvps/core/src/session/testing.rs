//! A disk in memory that writes down what it is asked, and waits or fails on demand.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::watch;

use super::connection::{Admission, Admitted, Order};
use super::disk::{Disk, DiskTransaction};
use super::payload::PayloadRoom;
use crate::engine::{Acknowledge, Durability, EngineError};
use crate::nbd::{Export, ExportName, Refusal};

pub(crate) const SIZE_BYTES: usize = 8 * 1024 * 1024;
pub(crate) const PAGE_BYTES: usize = 4096;

#[derive(Debug)]
struct State {
    content: Vec<u8>,
    log: Vec<String>,
    failures: VecDeque<EngineError>,
}

/// See the module's text. Clones are one disk.
#[derive(Clone)]
pub(crate) struct MemoryDisk {
    state: Arc<Mutex<State>>,
    /// Whether changes and barriers may finish.
    running: Arc<watch::Sender<bool>>,
}

impl MemoryDisk {
    pub(crate) fn new() -> Self {
        let state = State {
            content: vec![0; SIZE_BYTES],
            log: Vec::new(),
            failures: VecDeque::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            running: Arc::new(watch::Sender::new(true)),
        }
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

impl Disk for MemoryDisk {
    type Transaction = MemoryTransaction;

    async fn read(&self, offset: u64, length: u32) -> Result<Vec<Bytes>, EngineError> {
        self.note(format!("read {offset}+{length}"))?;
        let content = self.content(usize::try_from(offset).unwrap(), length as usize);
        // Several pieces, as the engine answers.
        let content = Bytes::from(content);
        let middle = content.len() / 3;
        Ok(vec![content.slice(..middle), content.slice(middle..)])
    }

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

impl DiskTransaction for MemoryTransaction {
    async fn read(&self, offset: u64, length: u32) -> Result<Vec<Bytes>, EngineError> {
        self.disk.note(format!("txn read {offset}+{length}"))?;
        let begin = usize::try_from(offset).unwrap();
        let mut content = self.disk.content(begin, length as usize);
        for (at, data) in self.writes.lock().unwrap().iter() {
            for (position, byte) in (usize::try_from(*at).unwrap()..).zip(data.iter()) {
                if let Some(place) = position.checked_sub(begin)
                    && let Some(old) = content.get_mut(place)
                {
                    *old = *byte;
                }
            }
        }
        Ok(vec![Bytes::from(content)])
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<(), EngineError> {
        self.disk
            .note(format!("txn write {offset}+{}", data.len()))?;
        self.disk.wait().await;
        self.change(offset, data);
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), EngineError> {
        self.disk.note(format!("txn zero {offset}+{length}"))?;
        self.change(offset, vec![0; usize::try_from(length).unwrap()].into());
        Ok(())
    }

    async fn trim(&self, offset: u64, length: u64) -> Result<(), EngineError> {
        self.disk.note(format!("txn trim {offset}+{length}"))?;
        self.change(offset, vec![0; usize::try_from(length).unwrap()].into());
        Ok(())
    }

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
    pub(crate) room: PayloadRoom,
}

impl OneDisk {
    pub(crate) fn new(disk: &MemoryDisk) -> Self {
        Self {
            disk: disk.clone(),
            read_only: false,
            durability: Durability::Local,
            orders: watch::Sender::new(Order::Serve),
            room: PayloadRoom::new(),
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

    async fn attach(&self, name: &ExportName) -> Result<Admitted<MemoryDisk>, Refusal> {
        Ok(Admitted {
            export: self.describe(name).await?,
            disk: self.disk.clone(),
            durability: self.durability,
            orders: self.orders.subscribe(),
            room: self.room.clone(),
        })
    }
}
