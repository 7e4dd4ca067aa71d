//! What a buffer store knows of itself: whose it is, and which history it may be replayed onto
//! (protocol §2).
//!
//! Invariants: pending tenures are those whose open publication may have counted; confirming one
//! empties the list. The last LSN never falls.

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3Default;

use super::codec::{FormatError, ObjectSeed, Reader, RecordKind, Writer};
use super::manifest::Manifest;
use crate::ids::{BufferStoreId, ImageId, Incarnation, Lsn, Tenure, Version};

/// Most pending tenures. Each is one attempt to open that was cut off between publication and
/// re-check; so many in a row without one success mean that something else is wrong, and the
/// record (24 KiB then) must stay small.
pub const PENDING_TENURES_MAX: usize = 1024;

/// Identifies the map of a manifest by the names of the objects it is read from, independent of
/// who published it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MapDigest(pub u128);

impl MapDigest {
    /// The digest of `manifest`'s map: its root and the segments of its tail, in order.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        let mut hash = Xxh3Default::new();
        if let Some(root) = &manifest.root {
            let map = manifest.maps.iter().find(|map| map.id == root.map);
            hash.update(map.map(|map| map.name.key()).unwrap_or_default().as_bytes());
            hash.update(&root.span.offset.to_le_bytes());
            hash.update(&root.span.bytes.to_le_bytes());
        }
        for id in &manifest.tail {
            let segment = manifest.segments.iter().find(|segment| segment.id == *id);
            hash.update(b"\n");
            hash.update(
                segment
                    .map(|segment| segment.name.key())
                    .unwrap_or_default()
                    .as_bytes(),
            );
        }
        Self(hash.digest128())
    }
}

/// A publication of this buffer store that counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnPublication {
    /// Its version.
    pub version: Version,
    /// Its LSN.
    pub lsn: Lsn,
    /// Its map.
    pub map: MapDigest,
}

/// The metadata record of a buffer store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferMetadata {
    /// Made with the buffer store.
    pub buffer_store: BufferStoreId,
    /// Whose buffer it is.
    pub image: ImageId,
    /// The image's incarnation, once known.
    pub incarnation: Option<Incarnation>,
    /// The last tenure whose open publication counted.
    pub confirmed: Option<Tenure>,
    /// Tenures whose open publication may have counted, oldest first; at most
    /// [`PENDING_TENURES_MAX`].
    pub pending: Vec<Tenure>,
    /// No lower than the LSN of any commit that was ever in a dropped generation, nor of the
    /// manifest that was opened.
    pub last_lsn: Lsn,
    /// The last publication of this buffer store that counted.
    pub published: Option<OwnPublication>,
}

impl BufferMetadata {
    /// Encodes the record.
    ///
    /// # Panics
    /// If more than [`PENDING_TENURES_MAX`] tenures are pending.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        assert!(
            self.pending.len() <= PENDING_TENURES_MAX,
            "openers check the limit first"
        );
        let mut writer = Writer::new(RecordKind::BufferMetadata);
        writer.u128(self.buffer_store.0);
        writer.text(self.image.as_str());
        let flags = u8::from(self.incarnation.is_some())
            | u8::from(self.confirmed.is_some()) << 1
            | u8::from(self.published.is_some()) << 2;
        writer.u8(flags);
        if let Some(incarnation) = self.incarnation {
            writer.u128(incarnation.0);
        }
        if let Some(tenure) = &self.confirmed {
            writer.tenure(tenure);
        }
        writer.count(self.pending.len());
        for tenure in &self.pending {
            writer.tenure(tenure);
        }
        writer.u64(self.last_lsn.0);
        if let Some(published) = &self.published {
            writer.u64(published.version.0);
            writer.u64(published.lsn.0);
            writer.u128(published.map.0);
        }
        writer.finish(seed(&self.image))
    }

    /// Decodes the record of the buffer store of `image`.
    ///
    /// # Errors
    /// [`FormatError`], also if it belongs to another image.
    pub fn decode(image: &ImageId, bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::open(RecordKind::BufferMetadata, seed(image), bytes)?;
        let buffer_store = BufferStoreId(reader.u128()?);
        let found = reader.text()?;
        reader.require(found == image.as_str(), "it is another image's")?;
        let flags = reader.u8()?;
        reader.require(flags < 8, "unknown flags")?;
        let incarnation = if flags & 1 == 0 {
            None
        } else {
            Some(Incarnation(reader.u128()?))
        };
        let confirmed = if flags & 2 == 0 {
            None
        } else {
            Some(reader.tenure()?)
        };
        let pending_count = reader.count(24)?;
        reader.require(
            pending_count <= PENDING_TENURES_MAX,
            "too many pending tenures",
        )?;
        let mut pending = Vec::with_capacity(pending_count);
        for _ in 0..pending_count {
            pending.push(reader.tenure()?);
        }
        let last_lsn = Lsn(reader.u64()?);
        let published = if flags & 4 == 0 {
            None
        } else {
            let (version, lsn) = (Version(reader.u64()?), Lsn(reader.u64()?));
            Some(OwnPublication {
                version,
                lsn,
                map: MapDigest(reader.u128()?),
            })
        };
        reader.finish()?;
        let image = image.clone();
        Ok(Self {
            buffer_store,
            image,
            incarnation,
            confirmed,
            pending,
            last_lsn,
            published,
        })
    }
}

fn seed(image: &ImageId) -> ObjectSeed {
    ObjectSeed::of_key(&format!("buffer/{image}"))
}

#[cfg(test)]
mod tests;
