//! Pins: `mvps image pins IMAGE [--release ID]`, and the pins of servers that read a version
//! (protocol §4.7).
//!
//! Invariants: a version is pinned only while the newest manifest keeps it, and that was re-checked.
//! Every pin is published when it is taken, also where the newest manifest has one of that name: a
//! release that is still on its way then finds its version taken, and does not count. A server
//! takes away its own pins, and those of lives that it has outlived, and nobody else's.

use crate::format::manifest::{Manifest, Pin, PinHolder, Pinned};
use crate::ids::{ImageId, Version};
use crate::protocol::{OthersPart, compose_by_other};
use crate::token::Shown;

use super::publishing::Step;
use super::reader_life::PinName;
use super::report::PinReport;
use super::rollback::resolve;
use super::{Admin, AdminError, ReaderLife};

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

/// The pins of an image, also of one that was deleted, and which are those of the server that
/// lives the life `present`.
///
/// # Errors
/// [`AdminError`].
pub async fn pins(
    admin: &Admin<'_>,
    image: &ImageId,
    present: Option<&ReaderLife>,
) -> Result<PinsReport, AdminError> {
    let newest = admin.manifests.newest(image).await?;
    let newest = newest.ok_or_else(|| AdminError::NoSuchImage {
        image: image.clone(),
    })?;
    Ok(report(&newest, present, false))
}

/// Frees the pins of a reader that is dead, also of a deleted image. `id` is a pin's whole name, or
/// a life, all of whose pins are freed, or a stable id: then those of all its lives but `present`
/// are.
///
/// # Errors
/// [`AdminError`].
pub async fn release_reader(
    admin: &Admin<'_>,
    image: &ImageId,
    id: &str,
    present: Option<&ReaderLife>,
) -> Result<PinsReport, AdminError> {
    let release = |_: &Manifest, part: &mut OthersPart| {
        let is_spared = |name: &PinName<'_>| {
            let is_present = present.is_some() && name.life.as_ref() == present;
            is_present && name.stable() == id
        };
        Ok(take_away(part, |pin| {
            reader_of(pin).is_some_and(|name| name.is_meant_by(id) && !is_spared(&name))
        }))
    };
    match admin.publish_part_of_any(image, release).await? {
        (newest, true) => Ok(report(&newest, present, true)),
        (_, false) => Err(AdminError::NoSuchReader {
            image: image.clone(),
            reader: id.to_owned(),
        }),
    }
}

/// Releases the pin `name`, which whoever calls this has taken; whether it was there.
///
/// # Errors
/// [`AdminError`].
pub(crate) async fn release_pin(
    admin: &Admin<'_>,
    image: &ImageId,
    name: &str,
) -> Result<bool, AdminError> {
    let release = |_: &Manifest, part: &mut OthersPart| Ok(take_away(part, |pin| is(pin, name)));
    let (_, was_there) = admin.publish_part_of_any(image, release).await?;
    Ok(was_there)
}

/// Whether there was one to take away.
fn take_away(part: &mut OthersPart, is_released: impl Fn(&Pin) -> bool) -> bool {
    let before = part.pins.len();
    part.pins.retain(|pin| !is_released(pin));
    part.pins.len() < before
}

fn report(newest: &Manifest, present: Option<&ReaderLife>, released: bool) -> PinsReport {
    let pins = newest.pins.iter();
    PinsReport {
        image: newest.image.to_string(),
        pins: pins.map(|pin| PinReport::seen_by(pin, present)).collect(),
        released,
    }
}

/// A version that a reader pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderPinned {
    /// Its manifest.
    pub manifest: Manifest,
    /// The pin's name.
    pub name: String,
}

/// Pins the version that `shown` is now, for the life `reader`, in place of the pin of that life
/// for the same. The pins of lives that it has outlived are taken away with the same publication.
///
/// # Errors
/// [`AdminError::VersionGone`], [`AdminError::NoSuchSnapshot`] and those of a publication.
pub async fn pin_version(
    admin: &Admin<'_>,
    image: &ImageId,
    shown: &Shown,
    reader: &ReaderLife,
) -> Result<ReaderPinned, AdminError> {
    let own = reader.pin_name(shown);
    let mut first = None;
    let pin = |newest: &Manifest, mark| {
        let version = match first {
            Some(first) if crate::mutant::is("a version is pinned that was forgotten") => first,
            _ => resolve(newest, shown)?,
        };
        first = Some(version);
        if crate::mutant::is("a pin taken over is left as it was")
            && let Some(name) = name_outlived(newest, version, reader)
        {
            return Ok(Step::Done((version, name)));
        }
        let mut part = OthersPart::of(newest);
        part.pins.retain(|pin| {
            let is_outlived = reader_of(pin).is_some_and(|name| reader.has_outlived(&name));
            !is(pin, &own) && !is_outlived
        });
        part.pins.push(Pin {
            holder: PinHolder::Reader(own.clone()),
            pinned: Pinned::Version(version),
        });
        let body = compose_by_other(newest, mark, part, admin.clock.wall())?;
        Ok(Step::Publish(Box::new(body), (version, own.clone())))
    };
    let (newest, (version, name)) = admin.publish(image, pin).await?;
    let manifest = admin.load_shown(&newest, &Shown::Version(version)).await?;
    Ok(ReaderPinned { manifest, name })
}

/// The name of the pin of a life that `reader` has outlived, on `version`.
fn name_outlived(newest: &Manifest, version: Version, reader: &ReaderLife) -> Option<String> {
    let pins = newest.pins.iter();
    let mut pins = pins.filter(|pin| pin.pinned == Pinned::Version(version));
    pins.find_map(|pin| {
        let name = reader_of(pin)?;
        let is_outlived = reader.has_outlived(&name);
        is_outlived.then(|| name.whole.to_owned())
    })
}

fn is(pin: &Pin, name: &str) -> bool {
    matches!(&pin.holder, PinHolder::Reader(held) if held == name)
}

fn reader_of(pin: &Pin) -> Option<PinName<'_>> {
    match &pin.holder {
        PinHolder::Reader(name) => Some(PinName::of(name)),
        PinHolder::Clone { .. } => None,
    }
}
