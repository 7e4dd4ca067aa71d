//! What can be wrong with keys. No text here has a key in it; ids of root keys are no secret.

use super::root_key_id::{ROOT_KEY_VARIABLE, ROOT_KEYS_MAX, RootKeyId};
use crate::ids::ImageId;

/// A data key that is needed and cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no root key at all.
    #[error(
        "image {image} is encrypted under root key {needed}, and no root key is given: set \
         {ROOT_KEY_VARIABLE} to it"
    )]
    NoRootKey {
        /// The image.
        image: ImageId,
        /// The root key that its data key is wrapped with.
        needed: RootKeyId,
    },
    /// None of the root keys is the one.
    #[error(
        "image {image} is encrypted under root key {needed}, and {ROOT_KEY_VARIABLE} has {given}: \
         add that key to it, behind the first and a comma"
    )]
    OtherRootKey {
        /// The image.
        image: ImageId,
        /// The root key that its data key is wrapped with.
        needed: RootKeyId,
        /// The ids of those that are given.
        given: String,
    },
    /// The manifest's copy of a data key is not one that this root key wrapped.
    #[error(
        "a data key in the manifest of image {image} does not open under root key {root}, which it \
         names: somebody altered it. Go back to a version that opens, or restore the manifest"
    )]
    Altered {
        /// The image.
        image: ImageId,
        /// The root key.
        root: RootKeyId,
    },
    /// The image is in the clear, and that is not accepted.
    #[error(
        "image {image} is not encrypted, and --require-encryption refuses to serve it: clone it \
         with {ROOT_KEY_VARIABLE} set and serve the clone, whose new data is encrypted"
    )]
    NotEncrypted {
        /// The image.
        image: ImageId,
    },
    /// An image was to be rekeyed that has no data key.
    #[error("image {image} is not encrypted: there is nothing to wrap again")]
    NothingToRekey {
        /// The image.
        image: ImageId,
    },
    /// Something was to be encrypted without a root key.
    #[error("there is no root key to wrap data keys with: set {ROOT_KEY_VARIABLE}")]
    NothingToWrapWith,
}

/// What is wrong with the text that is to be root keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RootKeyError {
    /// It is not what 32 bytes look like.
    #[error(
        "key number {number} in {ROOT_KEY_VARIABLE} is not 32 bytes in base64 (44 characters; \
         `openssl rand -base64 32` makes one)"
    )]
    NotAKey {
        /// Which, counted from 1.
        number: usize,
    },
    /// It names too many.
    #[error("{ROOT_KEY_VARIABLE} names more than {} keys", ROOT_KEYS_MAX)]
    TooMany,
}
