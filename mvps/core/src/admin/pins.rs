//! Pins: `mvps image pins IMAGE [--release ID]`, and the pins of servers that read a version
//! (protocol §4.7).
//!
//! Invariants: a reader id has at most one pin in an image; a version is pinned only while the
//! newest manifest keeps it, and that was re-checked.

use crate::format::manifest::{Manifest, Pin, PinHolder, Pinned};
use crate::ids::{ImageId, Version};
use crate::protocol::OthersPart;
use crate::token::Shown;

use super::report::PinReport;
use super::rollback::resolve;
use super::{Admin, AdminError};

/// The pins of an image.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PinsReport {
    /// The image.
    pub image: String,
    /// Its pins.
    pub pins: Vec<PinReport>,
    /// Whether a pin was released by this command.
    pub released: bool,
}

/// The pins of an image, also of one that was deleted.
///
/// # Errors
/// [`AdminError`].
pub async fn pins(admin: &Admin<'_>, image: &ImageId) -> Result<PinsReport, AdminError> {
    let newest = admin.manifests.newest(image).await?;
    let newest = newest.ok_or_else(|| AdminError::NoSuchImage {
        image: image.clone(),
    })?;
    Ok(report(&newest, false))
}

/// Frees the pin of the reader `reader`, which is dead, also of a deleted image.
///
/// # Errors
/// [`AdminError`].
pub async fn release_reader(
    admin: &Admin<'_>,
    image: &ImageId,
    reader: &str,
) -> Result<PinsReport, AdminError> {
    let release = |_: &Manifest, part: &mut OthersPart| {
        let before = part.pins.len();
        part.pins.retain(|pin| !is_reader(pin, reader));
        Ok(part.pins.len() < before)
    };
    match admin.publish_part_of_any(image, release).await? {
        (newest, true) => Ok(report(&newest, true)),
        (_, false) => Err(AdminError::NoSuchReader {
            image: image.clone(),
            reader: reader.to_owned(),
        }),
    }
}

fn report(newest: &Manifest, released: bool) -> PinsReport {
    PinsReport {
        image: newest.image.to_string(),
        pins: newest.pins.iter().map(PinReport::of).collect(),
        released,
    }
}

/// A version that a reader pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderPinned {
    /// Its manifest.
    pub manifest: Manifest,
}

/// Pins the version that `shown` is now, for the reader `reader`, in place of what that reader
/// pinned before.
///
/// # Errors
/// [`AdminError::VersionGone`], [`AdminError::NoSuchSnapshot`] and those of a publication.
pub async fn pin_version(
    admin: &Admin<'_>,
    image: &ImageId,
    shown: &Shown,
    reader: &str,
) -> Result<ReaderPinned, AdminError> {
    let pin = |newest: &Manifest, part: &mut OthersPart| {
        let version = resolve(newest, shown)?;
        part.pins.retain(|pin| !is_reader(pin, reader));
        part.pins.push(reader_pin(reader, version));
        // The order of pins says nothing; one that is there already needs no publication.
        let same = newest.pins.contains(&reader_pin(reader, version));
        if same && part.pins.len() == newest.pins.len() {
            part.pins.clone_from(&newest.pins);
        }
        Ok(version)
    };
    let (newest, version) = admin.publish_part(image, pin).await?;
    let manifest = admin.load_shown(&newest, &Shown::Version(version)).await?;
    Ok(ReaderPinned { manifest })
}

fn reader_pin(reader: &str, version: Version) -> Pin {
    Pin {
        holder: PinHolder::Reader(reader.to_owned()),
        pinned: Pinned::Version(version),
    }
}

fn is_reader(pin: &Pin, reader: &str) -> bool {
    matches!(&pin.holder, PinHolder::Reader(id) if id == reader)
}
