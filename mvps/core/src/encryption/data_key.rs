//! Data keys: an image's. They leave memory only wrapped.
//!
//! The key that wraps is derived from the root key for one image and incarnation, whose data key is
//! one and never changes: even a nonce that was drawn twice would seal the same content twice.

use std::fmt;
use std::sync::Arc;

use ring::aead::{Aad, LessSafeKey, Nonce};
use zeroize::{Zeroize as _, Zeroizing};

use super::{KEY_BYTES, RootKey, RootKeyId, SegmentKey, TAG_BYTES, derive};
use crate::env::Entropy;
use crate::ids::{ImageId, Incarnation};

/// Bytes of the nonce that a data key is wrapped with.
pub const WRAP_NONCE_BYTES: usize = 12;

/// Bytes of a wrapped data key.
pub const WRAPPED_KEY_BYTES: usize = KEY_BYTES + TAG_BYTES;

/// What a wrapping key is derived for, before the incarnation and the image's name.
const WRAP_PURPOSE: &[u8] = b"mvps data key 1";

/// What a segment's key is derived for, before the segment's key in the object store.
const SEGMENT_PURPOSE: &[u8] = b"mvps segment 1";

/// A data key as a manifest holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedDataKey {
    /// Whose objects it seals.
    pub image: ImageId,
    /// Of which of its lives.
    pub incarnation: Incarnation,
    /// The root key that it is wrapped with.
    pub root: RootKeyId,
    /// Drawn at random whenever it is wrapped.
    pub nonce: [u8; WRAP_NONCE_BYTES],
    /// The key, sealed.
    pub sealed: [u8; WRAPPED_KEY_BYTES],
}

/// A data key. Prints nothing of itself, and is wiped from memory with its last clone.
#[derive(Clone)]
pub struct DataKey(Arc<Zeroizing<[u8; KEY_BYTES]>>);

impl DataKey {
    /// A new one.
    #[must_use]
    pub fn draw(entropy: &dyn Entropy) -> Self {
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        entropy.fill(&mut secret[..]);
        Self(Arc::new(secret))
    }

    /// Wraps it as that of the image's incarnation.
    #[must_use]
    pub fn wrap(
        &self,
        root: &RootKey,
        image: &ImageId,
        incarnation: Incarnation,
        entropy: &dyn Entropy,
    ) -> WrappedDataKey {
        let mut nonce = [0; WRAP_NONCE_BYTES];
        entropy.fill(&mut nonce);
        let mut sealed = [0; WRAPPED_KEY_BYTES];
        let (secret, tag) = sealed.split_at_mut(KEY_BYTES);
        secret.copy_from_slice(&self.0[..]);
        let wrapping = wrapping_key(root, image, incarnation);
        let nonce_once = Nonce::assume_unique_for_key(nonce);
        let made = wrapping
            .seal_in_place_separate_tag(nonce_once, Aad::empty(), secret)
            .expect("32 bytes are not too long to seal");
        tag.copy_from_slice(made.as_ref());
        WrappedDataKey {
            image: image.clone(),
            incarnation,
            root: root.id(),
            nonce,
            sealed,
        }
    }

    /// Opens what [`Self::wrap`] made; `None` if it is not what this root key wrapped for this image
    /// and incarnation.
    pub(super) fn unwrap(root: &RootKey, wrapped: &WrappedDataKey) -> Option<Self> {
        let mut opened = Zeroizing::new(wrapped.sealed);
        let wrapping = wrapping_key(root, &wrapped.image, wrapped.incarnation);
        let nonce = Nonce::assume_unique_for_key(wrapped.nonce);
        wrapping
            .open_in_place(nonce, Aad::empty(), &mut opened[..])
            .ok()?;
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        secret.copy_from_slice(&opened[..KEY_BYTES]);
        opened.zeroize();
        Some(Self(Arc::new(secret)))
    }

    /// The key of the segment that is called `segment` in the object store.
    pub(super) fn segment_key(&self, segment: &str) -> SegmentKey {
        let segment = if crate::mutant::is("segment key does not bind the segment") {
            ""
        } else {
            segment
        };
        SegmentKey::new(derive(&self.0, &[SEGMENT_PURPOSE, segment.as_bytes()]))
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("DataKey(…)")
    }
}

fn wrapping_key(root: &RootKey, image: &ImageId, incarnation: Incarnation) -> LessSafeKey {
    // The incarnation has one length, so no two images share the text.
    let incarnation = incarnation.0.to_be_bytes();
    let purpose: &[&[u8]] = &[WRAP_PURPOSE, &incarnation, image.as_str().as_bytes()];
    derive(root.secret(), purpose)
}
