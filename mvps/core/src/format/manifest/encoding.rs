//! Bytes of a manifest. Numbers are varints; the images and incarnations of object names are
//! listed once, in an *origin table*, and names refer to it. Drawn in `mvps/docs/format.md`.
//!
//! Version 2 has data keys at the end, at least one; a manifest without any is of version 1.

use bytes::Bytes;

use super::{
    ByteSpan, ImageState, Manifest, MapObjectEntry, MapObjectId, Pin, PinHolder, Pinned,
    RetiredObject, RootEntry, SegmentEntry, SegmentId, Snapshot, Takeover,
};
use crate::encryption::{RootKeyId, WRAP_NONCE_BYTES, WRAPPED_KEY_BYTES, WrappedDataKey};
use crate::env::WallTime;
use crate::format::codec::{FormatError, ObjectSeed, Reader, RecordKind, Writer};
use crate::format::object_name::{ObjectKind, ObjectName, manifest_key};
use crate::ids::{
    EpochNumber, ImageId, Incarnation, Lsn, ObjectSequence, PageSize, PublicationCounter,
    PublicationId, Version,
};

/// Format versions.
const WITHOUT_KEYS: u16 = 1;
const WITH_KEYS: u16 = 2;

/// A data key takes at least this.
const DATA_KEY_MIN_BYTES: usize = 2 + 16 + 8 + WRAP_NONCE_BYTES + WRAPPED_KEY_BYTES;

impl Manifest {
    /// Encodes the manifest as the object [`manifest_key`] of its image and version. The same
    /// value is always the same bytes.
    ///
    /// # Panics
    /// If [`Manifest::validate`] fails: whoever takes a part from outside checks that part.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        self.validate()
            .expect("a manifest that is published is valid");
        let version = match self.data_keys.is_empty() {
            true => WITHOUT_KEYS,
            false => WITH_KEYS,
        };
        let mut writer = Writer::of_version(RecordKind::Manifest, version);
        let origins = Origins::of(self);
        self.write_head(&mut writer);
        origins.write(&mut writer);
        self.write_objects(&mut writer, &origins);
        self.write_history(&mut writer, &origins);
        if version == WITH_KEYS {
            self.write_data_keys(&mut writer);
        }
        writer.finish(seed(&self.image, self.version))
    }

    /// Decodes the manifest that was found under [`manifest_key`] of `image` and `version`.
    ///
    /// # Errors
    /// [`FormatError`], also if it is another image's or version's, or breaks a rule.
    pub fn decode(image: &ImageId, version: Version, bytes: &[u8]) -> Result<Self, FormatError> {
        let seed = seed(image, version);
        let (format, mut reader) = Reader::open_any(RecordKind::Manifest, seed, bytes)?;
        let mut manifest = read_head(&mut reader)?;
        let origins = Origins::read(&mut reader)?;
        read_objects(&mut reader, &origins, &mut manifest)?;
        read_history(&mut reader, &origins, &mut manifest)?;
        if format == WITH_KEYS {
            manifest.data_keys = read_many(&mut reader, DATA_KEY_MIN_BYTES, read_data_key)?;
            let some = !manifest.data_keys.is_empty();
            reader.require(some, "a manifest with keys has at least one")?;
        }
        let used = Origins::of(&manifest).0 == origins.0;
        reader.require(used, "the origins are not those of the names")?;
        let in_place = manifest.image == *image && manifest.version == version;
        reader.require(in_place, "it is another image's or version's")?;
        reader.finish()?;
        manifest
            .validate()
            .map_err(|rule| RecordKind::Manifest.corrupt(rule.to_string()))?;
        Ok(manifest)
    }

    fn write_head(&self, writer: &mut Writer) {
        writer.text(self.image.as_str());
        writer.varint(self.version.0);
        writer.u128(self.incarnation.0);
        writer.tenure(&self.tenure);
        writer.u8(match self.state {
            ImageState::Active => 0,
            ImageState::Clean => 1,
            ImageState::Tombstone => 2,
            ImageState::Abandoned => 3,
        });
        writer.text(&self.owner);
        writer.varint(self.publication.0);
        writer.count(self.others.len());
        for other in &self.others {
            writer.u128(other.0);
        }
        writer.varint(self.published_at.unix_ms);
        writer.u8(self.page_size.bits());
        writer.varint(self.size_bytes);
        writer.varint(self.lsn.0);
        writer.varint(self.watermark.0);
        writer.varint(self.oldest_retained.0);
        writer.varint(u64::from(self.next_segment.0));
        writer.varint(u64::from(self.next_map.0));
    }

    fn write_objects(&self, writer: &mut Writer, origins: &Origins) {
        writer.count(self.segments.len());
        let mut lowest = 0;
        for segment in &self.segments {
            writer.varint(u64::from(segment.id.0) - lowest);
            lowest = u64::from(segment.id.0) + 1;
            origins.write_name(writer, &segment.name);
            writer.varint(segment.size_bytes);
            write_span(writer, segment.index);
            writer.varint(u64::from(segment.pages));
            writer.varint(u64::from(segment.live_pages));
        }
        writer.count(self.maps.len());
        lowest = 0;
        for map in &self.maps {
            writer.varint(u64::from(map.id.0) - lowest);
            lowest = u64::from(map.id.0) + 1;
            origins.write_name(writer, &map.name);
            writer.varint(map.size_bytes);
        }
        writer.u8(u8::from(self.root.is_some()));
        if let Some(root) = &self.root {
            writer.varint(u64::from(root.map.0));
            write_span(writer, root.span);
        }
        writer.count(self.tail.len());
        for segment in &self.tail {
            writer.varint(u64::from(segment.0));
        }
        writer.count(self.retired.len());
        for retired in &self.retired {
            origins.write_kind_and_name(writer, &retired.name);
        }
    }

    fn write_history(&self, writer: &mut Writer, origins: &Origins) {
        writer.count(self.snapshots.len());
        for snapshot in &self.snapshots {
            writer.text(&snapshot.name);
            writer.varint(snapshot.version.0);
            writer.varint(snapshot.created_at.unix_ms);
        }
        writer.count(self.pins.len());
        for pin in &self.pins {
            write_pin(writer, origins, pin);
        }
        writer.count(self.takeovers.len());
        for takeover in &self.takeovers {
            writer.tenure(&takeover.from);
            writer.varint(takeover.at_lsn.0);
            writer.varint(takeover.at.unix_ms);
        }
    }

    fn write_data_keys(&self, writer: &mut Writer) {
        writer.count(self.data_keys.len());
        for key in &self.data_keys {
            writer.text(key.image.as_str());
            writer.u128(key.incarnation.0);
            writer.u64(key.root.0);
            writer.bytes(&key.nonce);
            writer.bytes(&key.sealed);
        }
    }
}

fn read_data_key(reader: &mut Reader<'_>) -> Result<WrappedDataKey, FormatError> {
    Ok(WrappedDataKey {
        image: read_image(reader)?,
        incarnation: Incarnation(reader.u128()?),
        root: RootKeyId(reader.u64()?),
        nonce: reader.bytes()?,
        sealed: reader.bytes()?,
    })
}

fn seed(image: &ImageId, version: Version) -> ObjectSeed {
    ObjectSeed::of_key(&manifest_key(image, version))
}

/// The images and incarnations that object names come from, in ascending order.
struct Origins(Vec<(ImageId, Incarnation)>);

impl Origins {
    fn of(manifest: &Manifest) -> Self {
        let pinned = manifest.pins.iter().flat_map(|pin| match &pin.pinned {
            Pinned::Objects(names) => names.as_slice(),
            Pinned::Version(_) => &[],
        });
        let names = manifest
            .segments
            .iter()
            .map(|segment| &segment.name)
            .chain(manifest.maps.iter().map(|map| &map.name))
            .chain(manifest.retired.iter().map(|retired| &retired.name))
            .chain(pinned);
        let mut origins: Vec<(&ImageId, Incarnation)> =
            names.map(|name| (&name.image, name.incarnation)).collect();
        origins.sort_unstable();
        origins.dedup();
        Self(
            origins
                .into_iter()
                .map(|(image, life)| (image.clone(), life))
                .collect(),
        )
    }

    fn write(&self, writer: &mut Writer) {
        writer.count(self.0.len());
        for (image, incarnation) in &self.0 {
            writer.text(image.as_str());
            writer.u128(incarnation.0);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let count = reader.count(18)?;
        let mut origins = Vec::with_capacity(count);
        for _ in 0..count {
            origins.push((read_image(reader)?, Incarnation(reader.u128()?)));
        }
        reader.require(origins.is_sorted_by(|a, b| a < b), "origins ascend")?;
        Ok(Self(origins))
    }

    fn write_name(&self, writer: &mut Writer, name: &ObjectName) {
        let origin = self
            .0
            .binary_search_by(|(image, life)| (image, life).cmp(&(&name.image, &name.incarnation)))
            .expect("the table was made of every name");
        writer.count(origin);
        writer.varint(name.epoch.0);
        writer.varint(name.sequence.0);
        writer.u64(name.suffix);
    }

    fn write_kind_and_name(&self, writer: &mut Writer, name: &ObjectName) {
        writer.u8(match name.kind {
            ObjectKind::Segment => 0,
            ObjectKind::Map => 1,
        });
        self.write_name(writer, name);
    }

    fn read_name(
        &self,
        reader: &mut Reader<'_>,
        kind: ObjectKind,
    ) -> Result<ObjectName, FormatError> {
        let origin = self.0.get(reader.varint_as::<usize>()?);
        let (image, incarnation) =
            origin.ok_or_else(|| reader.corrupt("a name without an origin"))?;
        Ok(ObjectName {
            image: image.clone(),
            incarnation: *incarnation,
            epoch: EpochNumber(reader.varint()?),
            sequence: ObjectSequence(reader.varint()?),
            suffix: reader.u64()?,
            kind,
        })
    }

    fn read_kind_and_name(&self, reader: &mut Reader<'_>) -> Result<ObjectName, FormatError> {
        let kind = match reader.u8()? {
            0 => ObjectKind::Segment,
            1 => ObjectKind::Map,
            _ => return Err(reader.corrupt("an unknown kind of object")),
        };
        self.read_name(reader, kind)
    }
}

fn write_span(writer: &mut Writer, span: ByteSpan) {
    writer.varint(span.offset);
    writer.varint(u64::from(span.bytes));
}

fn read_span(reader: &mut Reader<'_>) -> Result<ByteSpan, FormatError> {
    Ok(ByteSpan {
        offset: reader.varint()?,
        bytes: reader.varint_as()?,
    })
}

fn read_image(reader: &mut Reader<'_>) -> Result<ImageId, FormatError> {
    let text = reader.text()?;
    ImageId::parse(text).map_err(|error| reader.corrupt(error.to_string()))
}

fn read_head(reader: &mut Reader<'_>) -> Result<Manifest, FormatError> {
    Ok(Manifest {
        image: read_image(reader)?,
        version: Version(reader.varint()?),
        incarnation: Incarnation(reader.u128()?),
        tenure: reader.tenure()?,
        state: match reader.u8()? {
            0 => ImageState::Active,
            1 => ImageState::Clean,
            2 => ImageState::Tombstone,
            3 => ImageState::Abandoned,
            _ => return Err(reader.corrupt("an unknown state of the image")),
        },
        owner: reader.text()?.to_owned(),
        publication: PublicationCounter(reader.varint()?),
        others: read_many(reader, 16, |reader| Ok(PublicationId(reader.u128()?)))?,
        published_at: WallTime {
            unix_ms: reader.varint()?,
        },
        page_size: PageSize::from_bits(reader.u8()?)
            .ok_or_else(|| reader.corrupt("not a page size"))?,
        size_bytes: reader.varint()?,
        lsn: Lsn(reader.varint()?),
        watermark: ObjectSequence(reader.varint()?),
        oldest_retained: Version(reader.varint()?),
        next_segment: SegmentId(reader.varint_as()?),
        next_map: MapObjectId(reader.varint_as()?),
        segments: Vec::new(),
        maps: Vec::new(),
        root: None,
        tail: Vec::new(),
        retired: Vec::new(),
        snapshots: Vec::new(),
        pins: Vec::new(),
        takeovers: Vec::new(),
        data_keys: Vec::new(),
    })
}

/// Items that each take at least `item_bytes` bytes, after their count.
fn read_many<T>(
    reader: &mut Reader<'_>,
    item_bytes: usize,
    mut read: impl FnMut(&mut Reader<'_>) -> Result<T, FormatError>,
) -> Result<Vec<T>, FormatError> {
    let count = reader.count(item_bytes)?;
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        items.push(read(reader)?);
    }
    Ok(items)
}

/// The next of ascending 32-bit numbers; `lowest` becomes the lowest that may follow.
fn read_rising(reader: &mut Reader<'_>, lowest: &mut u64) -> Result<u32, FormatError> {
    let gap: u32 = reader.varint_as()?;
    let number = u32::try_from(*lowest + u64::from(gap));
    let number = number.map_err(|_| reader.corrupt("a number over 32 bits"))?;
    *lowest = u64::from(number) + 1;
    Ok(number)
}

fn read_objects(
    reader: &mut Reader<'_>,
    origins: &Origins,
    manifest: &mut Manifest,
) -> Result<(), FormatError> {
    let mut lowest = 0;
    manifest.segments = read_many(reader, 17, |reader| {
        Ok(SegmentEntry {
            id: SegmentId(read_rising(reader, &mut lowest)?),
            name: origins.read_name(reader, ObjectKind::Segment)?,
            size_bytes: reader.varint()?,
            index: read_span(reader)?,
            pages: reader.varint_as()?,
            live_pages: reader.varint_as()?,
        })
    })?;
    lowest = 0;
    manifest.maps = read_many(reader, 13, |reader| {
        Ok(MapObjectEntry {
            id: MapObjectId(read_rising(reader, &mut lowest)?),
            name: origins.read_name(reader, ObjectKind::Map)?,
            size_bytes: reader.varint()?,
        })
    })?;
    manifest.root = match reader.u8()? {
        0 => None,
        1 => {
            let map = MapObjectId(reader.varint_as()?);
            Some(RootEntry {
                map,
                span: read_span(reader)?,
            })
        }
        _ => return Err(reader.corrupt("neither a root nor none")),
    };
    manifest.tail = read_many(reader, 1, |reader| Ok(SegmentId(reader.varint_as()?)))?;
    manifest.retired = read_many(reader, 12, |reader| {
        Ok(RetiredObject {
            name: origins.read_kind_and_name(reader)?,
        })
    })?;
    Ok(())
}

fn read_history(
    reader: &mut Reader<'_>,
    origins: &Origins,
    manifest: &mut Manifest,
) -> Result<(), FormatError> {
    manifest.snapshots = read_many(reader, 4, |reader| {
        Ok(Snapshot {
            name: reader.text()?.to_owned(),
            version: Version(reader.varint()?),
            created_at: WallTime {
                unix_ms: reader.varint()?,
            },
        })
    })?;
    manifest.pins = read_many(reader, 4, |reader| read_pin(reader, origins))?;
    manifest.takeovers = read_many(reader, 26, |reader| {
        Ok(Takeover {
            from: reader.tenure()?,
            at_lsn: Lsn(reader.varint()?),
            at: WallTime {
                unix_ms: reader.varint()?,
            },
        })
    })?;
    Ok(())
}

fn write_pin(writer: &mut Writer, origins: &Origins, pin: &Pin) {
    match &pin.holder {
        PinHolder::Reader(reader) => {
            writer.u8(0);
            writer.text(reader);
        }
        PinHolder::Clone {
            target,
            incarnation,
        } => {
            writer.u8(1);
            writer.text(target.as_str());
            writer.u128(incarnation.0);
        }
    }
    match &pin.pinned {
        Pinned::Version(version) => {
            writer.u8(0);
            writer.varint(version.0);
        }
        Pinned::Objects(names) => {
            writer.u8(1);
            writer.count(names.len());
            for name in names {
                origins.write_kind_and_name(writer, name);
            }
        }
    }
}

fn read_pin(reader: &mut Reader<'_>, origins: &Origins) -> Result<Pin, FormatError> {
    let holder = match reader.u8()? {
        0 => PinHolder::Reader(reader.text()?.to_owned()),
        1 => PinHolder::Clone {
            target: read_image(reader)?,
            incarnation: Incarnation(reader.u128()?),
        },
        _ => return Err(reader.corrupt("an unknown holder of a pin")),
    };
    let pinned = match reader.u8()? {
        0 => Pinned::Version(Version(reader.varint()?)),
        1 => Pinned::Objects(read_many(reader, 12, |reader| {
            origins.read_kind_and_name(reader)
        })?),
        _ => return Err(reader.corrupt("an unknown kind of pin")),
    };
    Ok(Pin { holder, pinned })
}
