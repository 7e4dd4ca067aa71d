//! Names of objects: where everything of an image is (protocol §1).
//!
//! ```text
//! images/<image>/manifests/<inverted version, 16 hex>-<version, decimal>
//! images/<image>/objects/<incarnation, 32 hex>/<epoch>-<sequence>-<suffix>.segment   (16 hex each)
//! images/<image>/objects/<incarnation, 32 hex>/<epoch>-<sequence>-<suffix>.map
//! ```
//!
//! Keys are relative to the store's prefix. A manifest's key begins with its version counted down
//! from 2^64-1, so that the newest is the first of a listing. Invariant: parsing is strict, each
//! name has one key, and a key that this module did not make is never taken for one that it did.

use std::fmt;

use super::codec::{FormatError, ObjectSeed, RecordKind};
use crate::encryption::{ImageKeys, SegmentKey};
use crate::ids::{EpochNumber, ImageId, Incarnation, ObjectSequence, PieceKey, Version};

/// What kind of data object a name belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A segment.
    Segment,
    /// A map object.
    Map,
}

impl ObjectKind {
    fn extension(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::Map => "map",
        }
    }
}

/// The name of a segment or map object. Never written twice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The image it was written for.
    pub image: ImageId,
    /// That image's incarnation.
    pub incarnation: Incarnation,
    /// The epoch of its writer.
    pub epoch: EpochNumber,
    /// Its number within the epoch.
    pub sequence: ObjectSequence,
    /// Random.
    pub suffix: u64,
    /// What it is.
    pub kind: ObjectKind,
}

impl ObjectName {
    /// The object's key.
    #[must_use]
    pub fn key(&self) -> String {
        format!(
            "{}{}/{:016x}-{:016x}-{:016x}.{}",
            objects_prefix(&self.image),
            self.incarnation,
            self.epoch.0,
            self.sequence.0,
            self.suffix,
            self.kind.extension()
        )
    }

    /// The seed of every checksum in the object.
    #[must_use]
    pub fn seed(&self) -> ObjectSeed {
        ObjectSeed::of_key(&self.key())
    }

    /// What seals the segment of this name, if its image has a data key among `keys`.
    #[must_use]
    pub fn segment_key(&self, keys: &ImageKeys) -> Option<SegmentKey> {
        keys.segment_key(&self.image, self.incarnation, &self.key())
    }

    /// Names the piece that begins at byte `offset`, for caches.
    #[must_use]
    pub fn piece_key(&self, offset: u64) -> PieceKey {
        let mixed_up = crate::mutant::is("stale cache served after rewrite");
        PieceKey {
            suffix: if mixed_up { 0 } else { self.suffix },
            sequence: if mixed_up {
                ObjectSequence(0)
            } else {
                self.sequence
            },
            offset,
        }
    }

    /// The name whose [`ObjectName::key`] is `key`.
    ///
    /// # Errors
    /// [`FormatError::Corrupt`] for any other text.
    pub fn parse(key: &str) -> Result<Self, FormatError> {
        parse_object(key)
            .ok_or_else(|| RecordKind::ObjectName.corrupt(format!("{key:?} names no object")))
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.key())
    }
}

/// Where all images are: one folder each.
#[must_use]
pub fn images_prefix() -> &'static str {
    "images/"
}

/// Where the manifests of an image are.
#[must_use]
pub fn manifests_prefix(image: &ImageId) -> String {
    format!("{}{image}/manifests/", images_prefix())
}

/// Where the segments and map objects of an image are, of all its incarnations.
#[must_use]
pub fn objects_prefix(image: &ImageId) -> String {
    format!("{}{image}/objects/", images_prefix())
}

/// The key of a manifest.
#[must_use]
pub fn manifest_key(image: &ImageId, version: Version) -> String {
    format!(
        "{}{:016x}-{version}",
        manifests_prefix(image),
        u64::MAX - version.0
    )
}

/// The image and version whose [`manifest_key`] is `key`.
///
/// # Errors
/// [`FormatError::Corrupt`] for any other text.
pub fn parse_manifest_key(key: &str) -> Result<(ImageId, Version), FormatError> {
    parse_manifest(key)
        .ok_or_else(|| RecordKind::ObjectName.corrupt(format!("{key:?} names no manifest")))
}

/// The image that a folder below [`images_prefix`] belongs to: `images/<image>/`.
///
/// # Errors
/// [`FormatError::Corrupt`] for any other text.
pub fn parse_image_folder(folder: &str) -> Result<ImageId, FormatError> {
    folder
        .strip_prefix(images_prefix())
        .and_then(|rest| rest.strip_suffix('/'))
        .and_then(|image| ImageId::parse(image).ok())
        .ok_or_else(|| RecordKind::ObjectName.corrupt(format!("{folder:?} is no image's folder")))
}

fn parse_manifest(key: &str) -> Option<(ImageId, Version)> {
    let (image, rest) = key.strip_prefix(images_prefix())?.split_once('/')?;
    let image = ImageId::parse(image).ok()?;
    let inverted = rest.strip_prefix("manifests/")?.split_once('-')?.0;
    let version = Version(u64::MAX - hex_u64(inverted)?);
    (manifest_key(&image, version) == key).then_some((image, version))
}

fn parse_object(key: &str) -> Option<ObjectName> {
    let (image, rest) = key.strip_prefix(images_prefix())?.split_once('/')?;
    let (incarnation, file) = rest.strip_prefix("objects/")?.split_once('/')?;
    let (numbers, extension) = file.split_once('.')?;
    let mut numbers = numbers.split('-');
    let name = ObjectName {
        image: ImageId::parse(image).ok()?,
        incarnation: Incarnation(u128::from_str_radix(incarnation, 16).ok()?),
        epoch: EpochNumber(hex_u64(numbers.next()?)?),
        sequence: ObjectSequence(hex_u64(numbers.next()?)?),
        suffix: hex_u64(numbers.next()?)?,
        kind: match extension {
            "segment" => ObjectKind::Segment,
            "map" => ObjectKind::Map,
            _ => return None,
        },
    };
    // Comparing with the one key of the name rejects signs, capitals and other lengths.
    (name.key() == key).then_some(name)
}

fn hex_u64(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests;
