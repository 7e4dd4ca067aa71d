//! Reads of immutable objects, verified.
//!
//! Job: every byte of object storage that the engine believes comes through [`ObjectReads::read`]:
//! a ranged GET, then a decoder that checks the checksum. A piece that does not decode is fetched
//! once more, because the bytes may have been damaged on the way; if it is still wrong, the object
//! is, and that is logged and returned as [`ReadError::Corrupt`].
//!
//! Must never: return bytes that did not verify (durability D8), or cache.

use bytes::Bytes;

use crate::env::{GetRange, ObjectBody, StoreError};
use crate::format::codec::{FormatError, ObjectSeed};
use crate::format::manifest::ByteSpan;
use crate::format::object_name::ObjectName;
use crate::ids::PageNumber;
use crate::store::RetryingStore;

/// Why a read of object storage failed, by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The store does not serve it; retries are used up or useless. Whether to ask again is the
    /// caller's policy.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is stored is not what was written. Answer EIO; asking again does not help.
    #[error("{object} is damaged at byte {offset}{}: {reason}", of_page(.page))]
    Corrupt {
        /// The object's key.
        object: String,
        /// Where in it.
        offset: u64,
        /// The page that was asked for, if it was one.
        page: Option<PageNumber>,
        /// What is wrong.
        reason: String,
    },
    /// A newer mvps wrote it. Answer EIO and ask the operator for an upgrade.
    #[error("{object}: {reason}")]
    NewerFormat {
        /// The object's key.
        object: String,
        /// Which record, and of what format.
        reason: String,
    },
}

fn of_page(page: &Option<PageNumber>) -> String {
    page.map_or_else(String::new, |page| format!(" (page {page})"))
}

/// Where a piece of an object is, for [`ObjectReads::read`] and its messages.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// The object.
    pub object: &'a ObjectName,
    /// Where in it.
    pub span: ByteSpan,
    /// The page that the piece is read for, if it is one.
    pub page: Option<PageNumber>,
}

impl Piece<'_> {
    /// The piece is not what it should be: logs that and returns the error.
    #[must_use]
    pub fn corrupt(&self, reason: String) -> ReadError {
        let object = self.object.key();
        let offset = self.span.offset;
        let page = self.page;
        let page_number = page.map(|page| page.0);
        tracing::error!(
            object,
            offset,
            page = page_number,
            reason,
            "stored bytes are damaged"
        );
        ReadError::Corrupt {
            object,
            offset,
            page,
            reason,
        }
    }
}

/// Reads pieces of objects and verifies each before anybody sees a byte of it.
#[derive(Clone)]
pub struct ObjectReads {
    store: RetryingStore,
}

impl ObjectReads {
    /// Reads of this store.
    #[must_use]
    pub fn new(store: RetryingStore) -> Self {
        Self { store }
    }

    /// Fetches a piece and decodes it.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read<T>(
        &self,
        piece: Piece<'_>,
        decode: impl Fn(ObjectSeed, Bytes) -> Result<T, FormatError>,
    ) -> Result<T, ReadError> {
        // What is decoded may be kept, and must not keep the whole buffer that a client received
        // into.
        self.read_body(piece, |seed, body| decode(seed, body.kept()))
            .await
    }

    /// As [`Self::read`], for a decoder that takes the bytes in the pieces in which they arrived.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_body<T>(
        &self,
        piece: Piece<'_>,
        decode: impl Fn(ObjectSeed, ObjectBody) -> Result<T, FormatError>,
    ) -> Result<T, ReadError> {
        let key = piece.object.key();
        let seed = ObjectSeed::of_key(&key);
        let Some(end) = piece.span.offset.checked_add(u64::from(piece.span.bytes)) else {
            return Err(piece.corrupt("it would end beyond 64 bits".to_owned()));
        };
        if piece.span.bytes == 0 {
            return Err(piece.corrupt("it would be empty".to_owned()));
        }
        let range = GetRange::Bytes(piece.span.offset..end);
        let mut second_try = false;
        loop {
            let reason = match self.store.get(&key, range.clone()).await {
                Ok(body) => match decode(seed, body) {
                    Ok(value) => return Ok(value),
                    Err(error @ FormatError::NewerFormat { .. }) => {
                        return Err(ReadError::NewerFormat {
                            object: key,
                            reason: error.to_string(),
                        });
                    }
                    Err(error) => error.to_string(),
                },
                Err(StoreError::Corrupt { reason, .. }) => reason,
                Err(error) => return Err(error.into()),
            };
            if second_try {
                return Err(piece.corrupt(reason));
            }
            second_try = true;
            tracing::warn!(
                object = key,
                offset = piece.span.offset,
                reason,
                "reading a piece again"
            );
        }
    }
}
