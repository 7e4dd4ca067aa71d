//! The manifest: one published version of an image (protocol §§1–5). How it is written is in
//! [`encoding`]; what must hold in every manifest, in [`validation`].

mod encoding;
mod validation;

pub use validation::{InvalidManifest, OWNER_MAX_BYTES, READER_ID_MAX_BYTES};

use super::object_name::ObjectName;
use crate::encryption::WrappedDataKey;
use crate::env::WallTime;
use crate::ids::{
    ImageId, Incarnation, Lsn, ObjectSequence, PageSize, PublicationCounter, PublicationId, Tenure,
    Version,
};

/// Number of a segment within one image's manifests; map entries name segments by it. A number
/// is not given to another segment while any manifest, retired list or view may still use it:
/// numbers only rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SegmentId(pub u32);

/// Number of a map object within one image's manifests. Numbers only rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MapObjectId(pub u32);

/// Whether the image has an active writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageState {
    /// The tenure's server may still hold data that is not in this manifest.
    Active,
    /// Nobody is in state: the manifest is all there is.
    Clean,
    /// The image was deleted. The manifest stays for ever.
    Tombstone,
    /// A collector took the name so that a cloner that slept can no longer create it.
    Abandoned,
}

/// A byte range within an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ByteSpan {
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u32,
}

/// One segment that the version uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentEntry {
    /// Its number.
    pub id: SegmentId,
    /// Its object.
    pub name: ObjectName,
    /// The object's size.
    pub size_bytes: u64,
    /// Where its index is.
    pub index: ByteSpan,
    /// Pages it holds.
    pub pages: u32,
    /// Pages of it that the map pointed to at the last map compaction; `pages` until the first map
    /// compaction.
    pub live_pages: u32,
}

/// One map object that the version uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapObjectEntry {
    /// Its number.
    pub id: MapObjectId,
    /// Its object.
    pub name: ObjectName,
    /// The object's size.
    pub size_bytes: u64,
}

/// Where the root of the map is: the directory of all leaves as of the last map compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootEntry {
    /// The map object that holds it.
    pub map: MapObjectId,
    /// Where in it.
    pub span: ByteSpan,
}

/// An object that this version no longer uses, but that views of an earlier one may still read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RetiredObject {
    /// The object.
    pub name: ObjectName,
}

/// A named version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name, with the characters of an image id.
    pub name: String,
    /// The version it names.
    pub version: Version,
    /// When it was made.
    pub created_at: WallTime,
}

/// Who a pin belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinHolder {
    /// A server that reads a version, by the name of its pin: any text (`admin::ReaderLife` makes
    /// it).
    Reader(String),
    /// A clone.
    Clone {
        /// The clone's name.
        target: ImageId,
        /// The clone's incarnation.
        incarnation: Incarnation,
    },
}

/// What a pin keeps alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pinned {
    /// Everything that a version of this image references.
    Version(Version),
    /// These objects of this image.
    Objects(Vec<ObjectName>),
}

/// Keeps objects alive for somebody outside this image's own history (protocol §4.7, §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// For whom.
    pub holder: PinHolder,
    /// What.
    pub pinned: Pinned,
}

/// A takeover that the operator ordered: what it gave up is recorded for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Takeover {
    /// The tenure that lost the image.
    pub from: Tenure,
    /// The LSN of the last published checkpoint, which the image went back to.
    pub at_lsn: Lsn,
    /// When.
    pub at: WallTime,
}

/// Most takeovers that a manifest remembers; the oldest are forgotten first.
pub const TAKEOVERS_MAX: usize = 64;

/// Most publication ids of others that a manifest remembers. A publisher recognises its own
/// publication as long as fewer than this many others built on it before it looked.
pub const OTHERS_MAX: usize = 256;

/// Most data keys of a manifest: its own, and one for each image that it may share segments with. A
/// clone of a clone of … that shares something with every one of them has the most.
pub const DATA_KEYS_MAX: usize = 1024;

/// One published version of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The image.
    pub image: ImageId,
    /// The number of this version.
    pub version: Version,
    /// Which life of the name.
    pub incarnation: Incarnation,
    /// The last tenure: who is, or was, the active writer.
    pub tenure: Tenure,
    /// Whether the image has an active writer.
    pub state: ImageState,
    /// Host and process of the tenure's server, for messages to the operator; may be empty.
    pub owner: String,
    /// The tenure's publication counter (protocol §3.1).
    pub publication: PublicationCounter,
    /// Publications by others that this version descends from, newest last.
    pub others: Vec<PublicationId>,
    /// When it was published, by the publisher's clock. Policy only.
    pub published_at: WallTime,
    /// The image's page size; never changes.
    pub page_size: PageSize,
    /// The image's size, a multiple of the page size.
    pub size_bytes: u64,
    /// Every commit up to this LSN is in this version, and none after it.
    pub lsn: Lsn,
    /// Below this sequence number every object of the tenure's epoch is referenced or never will
    /// be (protocol §4.1).
    pub watermark: ObjectSequence,
    /// Versions below this one are forgotten, unless a snapshot or pin names them.
    pub oldest_retained: Version,
    /// The number that the next segment gets.
    pub next_segment: SegmentId,
    /// The number that the next map object gets.
    pub next_map: MapObjectId,
    /// Segments in use, ascending by number.
    pub segments: Vec<SegmentEntry>,
    /// Map objects in use, ascending by number.
    pub maps: Vec<MapObjectEntry>,
    /// The map as of the last map compaction; `None` before the first.
    pub root: Option<RootEntry>,
    /// Segments since the last map compaction, oldest first: their indexes are applied over the
    /// root.
    pub tail: Vec<SegmentId>,
    /// Objects not used any more that views may still read (protocol §4.6), ascending.
    pub retired: Vec<RetiredObject>,
    /// Named versions, ascending by name.
    pub snapshots: Vec<Snapshot>,
    /// Pins.
    pub pins: Vec<Pin>,
    /// Takeovers, oldest first.
    pub takeovers: Vec<Takeover>,
    /// Data keys of the images whose segments are sealed, ascending by image and incarnation. The
    /// newest manifest has them all and has them wrapped with the root key of now; those of earlier
    /// versions may be wrapped with one that is no longer there.
    pub data_keys: Vec<WrappedDataKey>,
}

impl Manifest {
    /// The data key of what this image itself writes; none if that is in the clear.
    #[must_use]
    pub fn own_data_key(&self) -> Option<&WrappedDataKey> {
        let mut keys = self.data_keys.iter();
        keys.find(|key| key.incarnation == self.incarnation && key.image == self.image)
    }

    /// Adds `key`, or puts it in the place of that for the same image and incarnation.
    pub fn put_data_key(&mut self, key: WrappedDataKey) {
        let place = self.data_keys.binary_search_by(|have| {
            (&have.image, have.incarnation).cmp(&(&key.image, key.incarnation))
        });
        match place {
            Ok(at) => self.data_keys[at] = key,
            Err(at) => self.data_keys.insert(at, key),
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::example_manifest;
