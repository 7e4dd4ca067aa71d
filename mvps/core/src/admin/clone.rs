//! `mvps image clone SOURCE[@NAME] TARGET`: a writable image that shares everything with a version
//! of another, made by a handful of publications whatever the image holds (protocol §5.1).
//!
//! Order, which every crash may cut off anywhere: the target's name is looked at; a pin in the
//! source, then one in every further image whose objects the version references; the target's first
//! manifest, created only where the first look found its place; the newest listed again. What a
//! cut leaves behind is pins of a clone that never appears, which the collector releases.
//!
//! Must never: create the target anywhere but right after what was seen before the first pin. A
//! collector that released the pins has put a tombstone there.

use std::collections::{BTreeMap, BTreeSet};

use crate::encryption::{ImageKeys, WrappedDataKey};
use crate::env::EntropyExt;
use crate::format::manifest::{Manifest, Pin, PinHolder, Pinned};
use crate::format::object_name::ObjectName;
use crate::ids::{ImageId, Incarnation};
use crate::protocol::{
    CloneTarget, ManifestError, OthersPart, Outcome, PublishedBy, compose_by_other, compose_clone,
    next_tenure, publish,
};
use crate::reachability::{is_tombstone, objects_of, referenced_images, referenced_objects};
use crate::token::Shown;

use super::rollback::resolve;
use super::{Admin, AdminError};

/// How many publications by others may come in between.
const ATTEMPTS_MAX: usize = 64;

/// A clone that was made.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Cloned {
    /// The clone.
    pub image: String,
    /// Its first version.
    pub version: u64,
    /// What it was made of.
    pub source: String,
    /// Which version of it.
    pub source_version: u64,
    /// Images that hold pins for it.
    pub pinned_in: Vec<String>,
    /// Its size.
    pub size_bytes: u64,
    /// The server that has the source open, which may hold newer data than the clone unless
    /// it was asked for a checkpoint; `None` if nobody has.
    pub active_writer: Option<String>,
}

/// Clones the version of `source` that `shown` is now as the new image `target`.
///
/// # Errors
/// [`AdminError`]. Nothing of `target` exists then, unless the fate of its creation is unknown.
pub async fn clone_image(
    admin: &Admin<'_>,
    source: &ImageId,
    shown: &Shown,
    target: &ImageId,
) -> Result<Cloned, AdminError> {
    if source == target {
        let image = target.clone();
        return Err(AdminError::SameName { image });
    }
    // Before the first pin: see the module's text.
    let place = admin.manifests.newest(target).await?;
    if place.as_ref().is_some_and(|newest| !is_tombstone(newest)) {
        let image = target.clone();
        return Err(AdminError::TargetExists { image });
    }
    let incarnation = Incarnation(admin.entropy.u128());
    let (roots, entropy) = (admin.root_keys, admin.entropy);
    let clone = NewClone {
        admin,
        source,
        target: CloneTarget {
            image: target.clone(),
            incarnation,
            tenure: next_tenure(place.as_ref(), entropy),
            data_key: WrappedDataKey::for_new_image(roots, target, incarnation, entropy),
        },
    };
    let late_pins = crate::mutant::is("clone published before its pin");
    let (newest, origin) = if late_pins {
        let newest = admin.newest_alive(source).await?;
        let origin = admin.load_shown(&newest, shown).await?;
        clone.create(place.as_ref(), &origin).await?;
        clone.pin_source(shown).await?;
        (newest, origin)
    } else {
        clone.pin_source(shown).await?
    };
    let mut pinned_in = vec![source.to_string()];
    if !crate::mutant::is("pin of a clone's clone only in the parent") {
        for (image, names) in clone.elsewhere(&origin) {
            clone.pin_elsewhere(&image, &names, &origin).await?;
            pinned_in.push(image.to_string());
        }
    }
    let version = if late_pins {
        origin.version
    } else {
        clone.create(place.as_ref(), &origin).await?
    };
    tracing::info!(image = %target, %source, of = %origin.version, "cloned");
    let active = newest.state == crate::format::manifest::ImageState::Active;
    Ok(Cloned {
        image: target.to_string(),
        version: version.0,
        source: source.to_string(),
        source_version: origin.version.0,
        pinned_in,
        size_bytes: origin.size_bytes,
        active_writer: active.then(|| super::named(&newest.owner)),
    })
}

/// One clone on its way.
struct NewClone<'a> {
    admin: &'a Admin<'a>,
    source: &'a ImageId,
    target: CloneTarget,
}

impl NewClone<'_> {
    fn pin(&self, pinned: Pinned) -> Pin {
        Pin {
            holder: PinHolder::Clone {
                target: self.target.image.clone(),
                incarnation: self.target.incarnation,
            },
            pinned,
        }
    }

    /// Pins the version to be cloned; returns the source's newest manifest and that version's.
    async fn pin_source(&self, shown: &Shown) -> Result<(Manifest, Manifest), AdminError> {
        let pin = |newest: &Manifest, part: &mut OthersPart| {
            // A clone of an image that is encrypted is encrypted too, and whoever makes it can
            // read it: that is found out before anything is left in the source.
            ImageKeys::unwrap(self.admin.root_keys, self.source, &newest.data_keys)?;
            let version = resolve(newest, shown)?;
            part.pins.push(self.pin(Pinned::Version(version)));
            Ok(version)
        };
        let (newest, version) = self.admin.publish_part(self.source, pin).await?;
        let shown = Shown::Version(version);
        let mut origin = self.admin.load_shown(&newest, &shown).await?;
        // Under the first root key: nobody who retires another one would think of the clone.
        for key in &mut origin.data_keys {
            let (roots, entropy) = (self.admin.root_keys, self.admin.entropy);
            *key = key.wrapped_again(roots, self.source, entropy)?;
        }
        Ok((newest, origin))
    }

    /// What the version shares with images other than the source, by image.
    fn elsewhere(&self, origin: &Manifest) -> BTreeMap<ImageId, BTreeSet<ObjectName>> {
        let images = referenced_images(origin).into_iter();
        let others = images.filter(|image| **image != *self.source);
        let names = |image: &ImageId| objects_of(origin, image).into_iter().collect();
        others.map(|image| (image.clone(), names(image))).collect()
    }

    /// Pins `names`, which are objects of `image`, while that image's newest manifest protects
    /// them. It may be a tombstone.
    async fn pin_elsewhere(
        &self,
        image: &ImageId,
        names: &BTreeSet<ObjectName>,
        origin: &Manifest,
    ) -> Result<(), AdminError> {
        let admin = self.admin;
        let not_protected = || AdminError::NotProtected {
            image: image.clone(),
            origin: self.source.clone(),
        };
        let newest = admin.manifests.newest(image).await?;
        let mut newest = newest.ok_or_else(not_protected)?;
        for _ in 0..ATTEMPTS_MAX {
            let pinned = self.protection(&newest, names, origin).await?;
            let pinned = pinned.ok_or_else(not_protected)?;
            let mut part = OthersPart::of(&newest);
            part.pins.push(self.pin(pinned));
            let mark = admin.mark();
            let body = compose_by_other(&newest, mark, part, admin.clock.wall())?;
            newest = match publish(admin.manifests, &body, PublishedBy::Other(mark)).await? {
                Outcome::Counted(_) => return Ok(()),
                Outcome::Merge(newest) | Outcome::Fenced(newest) => newest,
            };
        }
        Err(AdminError::Contended {
            image: image.clone(),
        })
    }

    /// By which pin `newest` would go on protecting `names`, if it protects them now: that of the
    /// image that is cloned, or any other that has them all, or what the image itself references.
    async fn protection(
        &self,
        newest: &Manifest,
        names: &BTreeSet<ObjectName>,
        origin: &Manifest,
    ) -> Result<Option<Pinned>, AdminError> {
        let held_by_source = |pin: &&Pin| {
            let life = origin.incarnation;
            matches!(&pin.holder, PinHolder::Clone { target, incarnation }
                if *target == origin.image && *incarnation == life)
        };
        let (first, others): (Vec<_>, Vec<_>) = newest.pins.iter().partition(held_by_source);
        let mut looked_at = BTreeSet::new();
        for pin in first.into_iter().chain(others) {
            match &pin.pinned {
                Pinned::Objects(list) => {
                    let list: BTreeSet<_> = list.iter().collect();
                    if names.iter().all(|name| list.contains(name)) {
                        return Ok(Some(Pinned::Objects(names.iter().cloned().collect())));
                    }
                }
                Pinned::Version(version) => {
                    if !looked_at.insert(*version) {
                        continue;
                    }
                    let kept = match self.admin.manifests.load(&newest.image, *version).await {
                        Ok(kept) => kept,
                        Err(ManifestError::NoSuchVersion { .. }) => continue,
                        Err(error) => return Err(error.into()),
                    };
                    let kept = referenced_objects(&kept);
                    if names.iter().all(|name| kept.contains(name)) {
                        return Ok(Some(Pinned::Version(*version)));
                    }
                }
            }
        }
        let mut kept = referenced_objects(newest);
        kept.extend(newest.retired.iter().map(|retired| &retired.name));
        let protected = names.iter().all(|name| kept.contains(name));
        Ok(protected.then(|| Pinned::Objects(names.iter().cloned().collect())))
    }

    /// Creates the clone's first manifest after `place`, and makes sure that it counts.
    async fn create(
        &self,
        place: Option<&Manifest>,
        origin: &Manifest,
    ) -> Result<crate::ids::Version, AdminError> {
        let admin = self.admin;
        let mark = admin.mark();
        let at = admin.clock.wall();
        let body = compose_clone(place, origin, self.target.clone(), mark, at)?;
        match publish(admin.manifests, &body, PublishedBy::Other(mark)).await? {
            Outcome::Counted(_) => Ok(body.version),
            Outcome::Merge(_) | Outcome::Fenced(_) => Err(AdminError::TargetTaken {
                image: self.target.image.clone(),
            }),
        }
    }
}
