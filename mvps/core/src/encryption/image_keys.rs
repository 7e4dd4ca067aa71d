//! The data keys of one image: its own, and those of the images that it shares segments with.

use super::{DataKey, KeyError, RootKeys, SegmentKey, WrappedDataKey};
use crate::env::Entropy;
use crate::ids::{ImageId, Incarnation};

/// The data keys that the segments of an image are sealed with. Objects without one are in the clear.
#[derive(Debug, Clone, Default)]
pub struct ImageKeys {
    /// As in the manifest.
    keys: Vec<(ImageId, Incarnation, DataKey)>,
}

impl ImageKeys {
    /// Those of an image that is not encrypted.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Opens the keys that the manifest of `image` lists.
    ///
    /// # Errors
    /// [`KeyError`], if one of them cannot be opened.
    pub fn unwrap(
        roots: &RootKeys,
        image: &ImageId,
        wrapped: &[WrappedDataKey],
    ) -> Result<Self, KeyError> {
        let open = |wrapped: &WrappedDataKey| {
            let key = opened(roots, image, wrapped)?;
            Ok((wrapped.image.clone(), wrapped.incarnation, key))
        };
        let keys: Result<_, KeyError> = wrapped.iter().map(open).collect();
        Ok(Self { keys: keys? })
    }

    /// The key of the segment `name` of an incarnation of `image`; `None` if it is in the clear.
    #[must_use]
    pub fn segment_key(
        &self,
        image: &ImageId,
        incarnation: Incarnation,
        name: &str,
    ) -> Option<SegmentKey> {
        let found = self.keys.iter().find(|(owner, life, _)| {
            // The number first: it differs, and comparing texts takes longer.
            *life == incarnation && owner == image
        });
        found.map(|(_, _, key)| key.segment_key(name))
    }
}

fn opened(
    roots: &RootKeys,
    image: &ImageId,
    wrapped: &WrappedDataKey,
) -> Result<DataKey, KeyError> {
    let (image, needed) = (image.clone(), wrapped.root);
    if roots.first().is_none() {
        return Err(KeyError::NoRootKey { image, needed });
    }
    let Some(root) = roots.find(needed) else {
        let given = roots.ids();
        return Err(KeyError::OtherRootKey {
            image,
            needed,
            given,
        });
    };
    DataKey::unwrap(root, wrapped).ok_or(KeyError::Altered {
        image,
        root: needed,
    })
}

impl WrappedDataKey {
    /// A new data key for `image`; none without a root key, and then the image is in the clear.
    #[must_use]
    pub fn for_new_image(
        roots: &RootKeys,
        image: &ImageId,
        incarnation: Incarnation,
        entropy: &dyn Entropy,
    ) -> Option<Self> {
        let root = roots.first()?;
        Some(DataKey::draw(entropy).wrap(root, image, incarnation, entropy))
    }

    /// The same key under the first of the root keys; `self` if that is so already.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn wrapped_again(
        &self,
        roots: &RootKeys,
        of: &ImageId,
        entropy: &dyn Entropy,
    ) -> Result<Self, KeyError> {
        let key = opened(roots, of, self)?;
        let root = roots.first().ok_or(KeyError::NothingToWrapWith)?;
        if root.id() == self.root {
            return Ok(self.clone());
        }
        Ok(key.wrap(root, &self.image, self.incarnation, entropy))
    }
}
