//! The engine as sessions see it: an [`Attachment`] is a [`Disk`].

use bytes::Bytes;

use super::disk::{Disk, DiskTransaction, Outcome};
use crate::engine::{Acknowledge, Attachment, Durability, EngineError, Transaction};

impl Disk for Attachment {
    type Transaction = Transaction;

    async fn read(&self, offset: u64, length: u32) -> Result<Vec<Bytes>, EngineError> {
        Ok(self.read(offset, length).await?.chunks)
    }

    fn write(&self, offset: u64, data: Bytes, when: Acknowledge) -> impl Outcome {
        self.write(offset, data, when)
    }

    fn write_zeroes(&self, offset: u64, length: u64, when: Acknowledge) -> impl Outcome {
        self.write_zeroes(offset, length, when)
    }

    fn trim(&self, offset: u64, length: u64, when: Acknowledge) -> impl Outcome {
        self.trim(offset, length, when)
    }

    fn flush(&self, durability: Durability) -> impl Outcome {
        self.flush(durability)
    }

    fn revoke(&self) -> impl Future<Output = ()> + Send {
        self.revoke()
    }

    fn begin(&self) -> impl Future<Output = Result<Transaction, EngineError>> + Send {
        self.begin()
    }
}

impl DiskTransaction for Transaction {
    async fn read(&self, offset: u64, length: u32) -> Result<Vec<Bytes>, EngineError> {
        Ok(self.read(offset, length).await?.chunks)
    }

    fn write(&self, offset: u64, data: Bytes) -> impl Outcome {
        self.write(offset, data)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> impl Outcome {
        self.write_zeroes(offset, length)
    }

    fn trim(&self, offset: u64, length: u64) -> impl Outcome {
        self.trim(offset, length)
    }

    fn lock(&self) -> impl Outcome {
        self.lock()
    }

    fn commit(self, when: Acknowledge) -> impl Outcome {
        self.commit(when)
    }
}
