//! Pieces of objects in the cache on the local disk, believed no more than those of the store.
//!
//! Job: stand between a cache that may return anything and readers that must not notice. A piece that
//! does not decode is removed from the cache, logged, and not there: its reader asks the store.
//!
//! Must never: return an error, or be a cache where there is none.

use std::sync::Arc;

use bytes::Bytes;

use crate::env::FrameCache;
use crate::ids::PieceKey;
use crate::mutant::is;
use crate::object_reads::Piece;

/// The cache on the local disk, if there is one.
#[derive(Clone, Default)]
pub struct DiskPieces(Option<Arc<dyn FrameCache>>);

impl From<Option<Arc<dyn FrameCache>>> for DiskPieces {
    fn from(cache: Option<Arc<dyn FrameCache>>) -> Self {
        Self(cache)
    }
}

impl DiskPieces {
    /// The cache itself.
    #[must_use]
    pub fn cache(&self) -> Option<&Arc<dyn FrameCache>> {
        self.0.as_ref()
    }

    /// Whether nothing is ever found, because there is no such cache.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.0.is_none()
    }

    /// The piece as it is stored, not verified yet but for its length.
    pub async fn stored(&self, piece: Piece<'_>) -> Option<Bytes> {
        let cache = self.0.as_ref()?;
        let stored = cache.get(key_of(&piece)).await?;
        let expected = piece.span.bytes as usize;
        match stored.len() == expected {
            true => Some(stored),
            false => self.accept(piece, Err(format!("{} bytes of {expected}", stored.len()))),
        }
    }

    /// What became of a piece that was found: it is of use, or it goes.
    pub fn accept<T>(&self, piece: Piece<'_>, decoded: Result<T, impl ToString>) -> Option<T> {
        let error = match decoded {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        tracing::warn!(
            object = piece.object.key(),
            offset = piece.span.offset,
            reason = error.to_string(),
            "the disk cache has a damaged piece, which goes"
        );
        if let Some(cache) = &self.0
            && !is("cache entry kept after damage")
        {
            cache.remove(key_of(&piece));
        }
        None
    }

    /// Keeps a piece as it is stored.
    pub fn put(&self, key: PieceKey, stored: Bytes) {
        if let Some(cache) = &self.0 {
            cache.put(key, stored);
        }
    }
}

fn key_of(piece: &Piece<'_>) -> PieceKey {
    piece.object.piece_key(piece.span.offset)
}

#[cfg(test)]
mod tests;
