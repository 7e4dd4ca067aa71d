//! What must hold in every manifest. Checked before one is encoded and after one is decoded: what
//! passes can be acted on without looking again.

use std::collections::BTreeSet;

use super::{ByteSpan, DATA_KEYS_MAX, Manifest, OTHERS_MAX, PinHolder, Pinned, TAKEOVERS_MAX};
use crate::format::object_name::ObjectKind;
use crate::ids::{ImageId, Version};

/// Longest owner text: a host name and a process id fit many times over.
pub const OWNER_MAX_BYTES: usize = 1024;

/// Longest reader id.
pub const READER_ID_MAX_BYTES: usize = 1024;

/// A rule that a manifest breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidManifest(pub &'static str);

fn require(holds: bool, rule: &'static str) -> Result<(), InvalidManifest> {
    if holds {
        Ok(())
    } else {
        Err(InvalidManifest(rule))
    }
}

fn inside(span: ByteSpan, size_bytes: u64) -> bool {
    span.offset
        .checked_add(u64::from(span.bytes))
        .is_some_and(|end| end <= size_bytes)
}

impl Manifest {
    /// Checks every rule that one manifest can be checked for by itself.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), InvalidManifest> {
        require(self.version >= Version(1), "versions begin with 1")?;
        require(
            self.oldest_retained <= self.version,
            "the oldest retained version exists",
        )?;
        require(
            self.size_bytes
                .is_multiple_of(self.page_size.bytes() as u64),
            "the size is a multiple of the page size",
        )?;
        require(
            self.owner.len() <= OWNER_MAX_BYTES,
            "the owner text is short",
        )?;
        require(
            self.others.len() <= OTHERS_MAX,
            "others' publications are bounded",
        )?;
        require(
            self.takeovers.len() <= TAKEOVERS_MAX,
            "takeovers are bounded",
        )?;
        self.validate_segments()?;
        self.validate_map()?;
        require(
            self.retired.is_sorted_by(|a, b| a < b),
            "retired objects ascend",
        )?;
        self.validate_snapshots()?;
        self.validate_pins()?;
        require(
            self.data_keys.len() <= DATA_KEYS_MAX,
            "data keys are bounded",
        )?;
        require(
            self.data_keys
                .is_sorted_by(|a, b| (&a.image, a.incarnation) < (&b.image, b.incarnation)),
            "data keys ascend",
        )
    }

    fn validate_segments(&self) -> Result<(), InvalidManifest> {
        require(
            self.segments.is_sorted_by(|a, b| a.id < b.id),
            "segments ascend",
        )?;
        let mut names = BTreeSet::new();
        for segment in &self.segments {
            require(segment.id < self.next_segment, "segment numbers only rise")?;
            require(
                segment.name.kind == ObjectKind::Segment,
                "a segment is named as one",
            )?;
            require(
                names.insert(&segment.name),
                "a segment's name is there once",
            )?;
            require(
                inside(segment.index, segment.size_bytes),
                "a segment's index is inside it",
            )?;
            require(
                segment.live_pages <= segment.pages,
                "live pages are among the pages",
            )?;
        }
        let mut tail = BTreeSet::new();
        for id in &self.tail {
            let known = self
                .segments
                .binary_search_by_key(id, |segment| segment.id)
                .is_ok();
            require(known, "a segment of the tail exists")?;
            require(tail.insert(id), "a segment is in the tail once")?;
        }
        Ok(())
    }

    fn validate_map(&self) -> Result<(), InvalidManifest> {
        require(
            self.maps.is_sorted_by(|a, b| a.id < b.id),
            "map objects ascend",
        )?;
        let mut names = BTreeSet::new();
        for map in &self.maps {
            require(map.id < self.next_map, "map object numbers only rise")?;
            require(
                map.name.kind == ObjectKind::Map,
                "a map object is named as one",
            )?;
            require(names.insert(&map.name), "a map object's name is there once")?;
        }
        let Some(root) = &self.root else {
            return Ok(());
        };
        let map = self.maps.iter().find(|map| map.id == root.map);
        require(
            map.is_some_and(|map| inside(root.span, map.size_bytes)),
            "the root is inside a map object",
        )
    }

    fn validate_snapshots(&self) -> Result<(), InvalidManifest> {
        require(
            self.snapshots.is_sorted_by(|a, b| a.name < b.name),
            "snapshots ascend",
        )?;
        for snapshot in &self.snapshots {
            require(
                ImageId::parse(&snapshot.name).is_ok(),
                "a snapshot's name has the characters of an image id",
            )?;
            require(
                self.had(snapshot.version),
                "a snapshot names a version that was",
            )?;
        }
        Ok(())
    }

    fn validate_pins(&self) -> Result<(), InvalidManifest> {
        for pin in &self.pins {
            if let PinHolder::Reader(reader) = &pin.holder {
                require(reader.len() <= READER_ID_MAX_BYTES, "a reader id is short")?;
            }
            if let Pinned::Version(version) = &pin.pinned {
                require(self.had(*version), "a pin names a version that was")?;
            }
        }
        Ok(())
    }

    fn had(&self, version: Version) -> bool {
        (Version(1)..=self.version).contains(&version)
    }
}
