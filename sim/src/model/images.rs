//! All images of a run: each has a model of its own, and here is what concerns several.
//!
//! An object belongs to the image that its name says, and may be needed by the clones of that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mvps_core::env::memory::MemoryObjectStore;
use mvps_core::format::manifest::{ImageState, Manifest};
use mvps_core::format::object_name::{ObjectName, manifests_prefix, parse_manifest_key};
use mvps_core::ids::ImageId;

use super::content::Pages;
use super::published::needs;
use super::state::Model;
use crate::environment::objects::{Caller, LandingOracle};
use crate::environment::request::Request;
use crate::environment::store_frontend::Reply;
use crate::journal::Journal;

/// The models of all images.
pub struct Images {
    models: BTreeMap<ImageId, Arc<Model>>,
    journal: Journal,
}

impl Images {
    /// These are all images that there can be.
    #[must_use]
    pub fn new(journal: &Journal, models: Vec<Arc<Model>>) -> Self {
        let models = models.into_iter();
        Self {
            models: models.map(|it| (it.image.clone(), it)).collect(),
            journal: journal.clone(),
        }
    }

    /// The models.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.models.values()
    }

    fn model(&self, image: &ImageId) -> &Model {
        self.models
            .get(image)
            .unwrap_or_else(|| panic!("nobody knows of an image {image}"))
    }

    fn manifest_landed(&self, client: &str, manifest: Manifest, contents: &MemoryObjectStore) {
        let model = self.model(&manifest.image);
        self.check_pins(&manifest);
        let base = if model.is_birth(&manifest) {
            Some(self.content_of_clone(client, &manifest))
        } else {
            None
        };
        model.published(client, manifest, base, contents);
    }

    /// What a clone holds of other images is pinned for it there, from before it appears until
    /// after it lets go of it (protocol §5.1, §5.2).
    fn check_pins(&self, manifest: &Manifest) {
        let shared = needs(manifest).filter(|name| name.image != manifest.image);
        let origins: BTreeSet<&ImageId> = shared.map(|name| &name.image).collect();
        for origin in origins {
            let names = needs(manifest).filter(|name| name.image == *origin);
            if !self.model(origin).pins_for(manifest, names) {
                self.journal.fail(
                    "8 (landing)",
                    format_args!(
                        "version {} of {} shares objects of {origin}, which has no pin for it",
                        manifest.version, manifest.image
                    ),
                );
            }
            self.journal.checked(8);
        }
    }

    /// What the version holds that the clone was made of.
    fn content_of_clone(&self, client: &str, clone: &Manifest) -> Pages {
        let others = self.models.values().filter(|it| it.image != clone.image);
        let content = others.filter_map(|it| it.content_cloned_as(clone)).next();
        content.unwrap_or_else(|| {
            self.journal.fail(
                "8 (landing)",
                format_args!(
                    "{client} made the clone {} of a version that is not pinned for it",
                    clone.image
                ),
            )
        })
    }

    fn deleted(&self, client: &str, key: &str) {
        let name = ObjectName::parse(key);
        let image = match (&name, parse_manifest_key(key)) {
            (Ok(name), _) => name.image.clone(),
            (Err(_), Ok((image, _))) => image,
            (Err(_), Err(_)) => return,
        };
        self.journal.checked(8);
        let objection = self.model(&image).objection(key).or_else(|| {
            let name = name.as_ref().ok()?;
            let others = self.models.values().filter(|it| it.image != image);
            others.filter_map(|it| it.objection_of_sharer(name)).next()
        });
        if let Some(objection) = objection {
            self.journal.fail(
                "8 (collection)",
                format_args!("{client} deleted {key}: {objection}"),
            );
        }
    }

    /// After collections with nothing in their way: what is left is needed (oracle 10).
    pub fn check_space(&self, contents: &MemoryObjectStore) {
        self.journal.checked(10);
        for key in contents.keys() {
            let Ok(name) = ObjectName::parse(&key) else {
                continue;
            };
            if self.model(&name.image).objection(&key).is_none() {
                self.journal.fail(
                    "10 (space)",
                    format_args!("{key} is left behind, and nothing needs it"),
                );
            }
        }
    }
}

impl LandingOracle for Images {
    fn landed(&self, client: &str, request: &Request, contents: &MemoryObjectStore) {
        match request {
            Request::Create(key, body) => match parse_manifest_key(key) {
                Ok((image, version)) => {
                    let first = contents.first_key(&manifests_prefix(&image));
                    if first.as_deref() != Some(key) {
                        self.journal.mark("a manifest landed below the newest");
                        return;
                    }
                    let manifest =
                        Manifest::decode(&image, version, body).unwrap_or_else(|error| {
                            self.journal.fail(
                                "8 (landing)",
                                format_args!("{key} does not decode: {error}"),
                            )
                        });
                    self.manifest_landed(client, manifest, contents);
                }
                Err(_) => self.object_landed(client, key, contents),
            },
            Request::Put(key, _) | Request::CompleteUpload(key, ..) => {
                self.object_landed(client, key, contents);
            }
            Request::Delete(keys) => {
                for key in keys {
                    self.deleted(client, key);
                }
            }
            Request::AbortUpload(key, _) => {
                self.journal.mark("an orphan upload was aborted");
                self.deleted(client, key);
            }
            _ => {}
        }
    }

    fn missing(&self, client: &str, key: &str) {
        if ObjectName::parse(key).is_err() {
            return;
        }
        for model in self.models.values() {
            model.missing(client, key);
        }
    }

    fn trouble(&self, client: &str, until: Duration) {
        for model in self.models.values() {
            model.trouble(client, until);
        }
    }

    fn sent(&self, caller: &Caller, request: &Request) {
        if let Some(model) = self.looked_at(request) {
            model.look_sent(caller);
        }
    }

    fn carried_out(&self, caller: &Caller, request: &Request) {
        if let Some(model) = self.looked_at(request) {
            model.look_carried_out(caller);
        }
    }

    fn answered(&self, caller: &Caller, request: &Request, reply: &Reply) {
        if let Some(model) = self.looked_at(request) {
            model.look_answered(caller, reply.is_ok());
        }
    }

    fn damaged(&self) {
        for model in self.models.values() {
            model.damaged();
        }
    }
}

impl Images {
    /// The image whose newest manifest `request` asks for.
    fn looked_at(&self, request: &Request) -> Option<&Arc<Model>> {
        let Request::List(prefix, None, 1) = request else {
            return None;
        };
        let of = |model: &&Arc<Model>| *prefix == manifests_prefix(&model.image);
        self.models.values().find(of)
    }

    fn object_landed(&self, client: &str, key: &str, contents: &MemoryObjectStore) {
        if let Ok(name) = ObjectName::parse(key) {
            self.model(&name.image).object_landed(client, key, contents);
        }
    }
}

impl Model {
    /// Whether `manifest` is the first of a clone.
    fn is_birth(&self, manifest: &Manifest) -> bool {
        let state = self.state();
        let before = state.newest.as_ref();
        manifest.state == ImageState::Clean
            && before.is_none_or(|it| it.incarnation != manifest.incarnation)
    }
}
