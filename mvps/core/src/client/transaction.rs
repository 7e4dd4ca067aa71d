//! A transaction on a connection.

use bytes::Bytes;

use super::connection::Client;
use super::error::ClientError;
use crate::nbd::{ContextStatus, Errno, Request};

/// Attempts of [`Client::transact`] that hope for no conflict. Later ones take the image's write
/// lock first: what they then do cannot conflict.
pub const OPTIMISTIC_ATTEMPTS: usize = 4;

/// Attempts in all. With the lock only what the server aborts fails (one that grew too old, or held
/// the lock too long), and that twice in a row is no accident.
pub const ATTEMPTS_MAX: usize = OPTIMISTIC_ATTEMPTS + 4;

impl Client {
    /// Begins a transaction. Until it ends, the connection serves nothing else.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn begin(&mut self) -> Result<Transaction<'_>, ClientError> {
        // The guard first: a begin whose future is dropped may have been sent.
        let transaction = Transaction {
            client: self,
            ended: false,
        };
        transaction.client.request(Request::Begin).await?;
        Ok(transaction)
    }

    /// Runs `body` in a transaction and commits it; begins again, with a new view, as often as it
    /// meets a conflict, [`ATTEMPTS_MAX`] times at most. With `fua` it is durable when this
    /// returns. `body` may run several times: what it does beside the transaction is its own care.
    ///
    /// # Errors
    /// What `body` returns, after a rollback; [`ClientError::Conflict`] after the last attempt;
    /// [`ClientError::Lost`] from the commit: all of it happened, or nothing.
    pub async fn transact<T>(
        &mut self,
        fua: bool,
        mut body: impl AsyncFnMut(&Transaction<'_>) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let done = self
                .attempt(attempt > OPTIMISTIC_ATTEMPTS, fua, &mut body)
                .await;
            match done {
                Err(ClientError::Conflict) if attempt < ATTEMPTS_MAX => {}
                done => return done,
            }
        }
    }

    async fn attempt<T>(
        &mut self,
        locks: bool,
        fua: bool,
        body: &mut impl AsyncFnMut(&Transaction<'_>) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let transaction = self.begin().await?;
        if locks {
            transaction.lock().await?;
        }
        let result = body(&transaction).await?;
        transaction.commit(fua).await?;
        Ok(result)
    }
}

/// An open transaction. Its requests take effect in the order in which they are first polled,
/// and together, when it commits. Dropping it rolls it back.
#[derive(Debug)]
pub struct Transaction<'a> {
    client: &'a mut Client,
    ended: bool,
}

impl Transaction<'_> {
    /// Reads what the transaction sees: the image as of its beginning, and its own writes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn read(&self, offset: u64, length: u32) -> Result<Bytes, ClientError> {
        self.client.read(offset, length).await.map_err(conflict)
    }

    /// As [`Client::block_status`], of what the transaction sees.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn block_status(
        &self,
        offset: u64,
        length: u64,
        one: bool,
    ) -> Result<Vec<ContextStatus>, ClientError> {
        let status = self.client.block_status(offset, length, one).await;
        status.map_err(conflict)
    }

    /// Writes when it commits.
    ///
    /// # Errors
    /// [`ClientError`]; [`Errno::OutOfMemory`] where the transaction is over its limit.
    pub async fn write(&self, offset: u64, data: Bytes) -> Result<(), ClientError> {
        self.client
            .write(offset, data, false)
            .await
            .map_err(conflict)
    }

    /// Makes bytes read as zeroes when it commits.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), ClientError> {
        let zeroed = self.client.write_zeroes(offset, length, false).await;
        zeroed.map_err(conflict)
    }

    /// Frees whole pages when it commits.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn trim(&self, offset: u64, length: u64) -> Result<(), ClientError> {
        self.client
            .trim(offset, length, false)
            .await
            .map_err(conflict)
    }

    /// Deletes the page that begins at `offset`: it reads as zeroes and takes no space.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn delete_page(&self, offset: u64) -> Result<(), ClientError> {
        self.write(offset, Bytes::new()).await
    }

    /// Takes the image's write lock, first come, first served: the commit cannot conflict then.
    ///
    /// # Errors
    /// [`ClientError::Conflict`]: roll back and begin again.
    pub async fn lock(&self) -> Result<(), ClientError> {
        self.client
            .request(Request::Lock)
            .await
            .map(drop)
            .map_err(conflict)
    }

    /// Commits; with `fua` the transaction is durable when this returns.
    ///
    /// # Errors
    /// [`ClientError::Conflict`]: nothing of it happened; begin again. [`ClientError::Lost`]: all
    /// of it happened, or nothing.
    pub async fn commit(mut self, fua: bool) -> Result<(), ClientError> {
        let committed = self.client.request(Request::Commit { fua }).await;
        // Whatever the answer, the transaction is gone.
        self.ended = true;
        committed.map(drop).map_err(conflict)
    }

    /// Rolls back.
    ///
    /// # Errors
    /// [`ClientError::Lost`]; it is rolled back then, too.
    pub async fn roll_back(mut self) -> Result<(), ClientError> {
        let rolled_back = self.client.request(Request::Rollback).await;
        self.ended = true;
        rolled_back.map(drop)
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.client.roll_back_later();
        }
    }
}

fn conflict(error: ClientError) -> ClientError {
    match error {
        ClientError::Failed(Errno::Permission) => ClientError::Conflict,
        other => other,
    }
}
