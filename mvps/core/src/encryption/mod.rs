//! Encryption of what segments hold: keys, and what is done with them. No bytes of a record are
//! drawn here; that is `format`'s.
//!
//! Three kinds of keys, each used for nothing else (`docs/decisions/encryption.md`):
//! - a **root key** belongs to the operator and is stored nowhere. It wraps data keys;
//! - a **data key** belongs to one image and incarnation for ever. It is drawn at random and stored
//!   in the image's manifests, wrapped; a clone's manifests have those of its sources too;
//! - a **segment key** is derived from a data key and the whole name of one segment, which is never
//!   given to another (epoch, sequence number, random suffix). It seals that segment's frames,
//!   each under its first page's number as the nonce.
//!
//! Invariants: no pair of key and nonce seals two contents: a segment is encoded once and has every
//! page once, and a retried upload sends the same bytes. What was sealed under one name, or for
//! some pages, opens under no other name and for no other pages.
//!
//! Must never: print, log or serialise a key, or hand out a key that was not authenticated.

mod data_key;
mod error;
mod image_keys;
mod root_key;
mod root_key_id;
mod segment_key;

pub use data_key::{DataKey, WRAP_NONCE_BYTES, WRAPPED_KEY_BYTES, WrappedDataKey};
pub use error::{KeyError, RootKeyError};
pub use image_keys::ImageKeys;
pub use root_key::{ROOT_KEY_BYTES, RootKey, RootKeys};
pub use root_key_id::{ROOT_KEY_VARIABLE, ROOT_KEYS_MAX, RootKeyId};
pub use segment_key::{SegmentKey, TAG_BYTES};

use ring::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk};

/// Bytes of every key.
const KEY_BYTES: usize = 32;

/// Derives the key of AES-256-GCM that `purpose` names (HKDF-Expand, RFC 5869: the secret is
/// uniformly random, so there is nothing to extract).
fn derive(secret: &[u8; KEY_BYTES], purpose: &[&[u8]]) -> LessSafeKey {
    let secret = Prk::new_less_safe(HKDF_SHA256, secret);
    let derived = secret.expand(purpose, &AES_256_GCM);
    let derived = derived.expect("one key is shorter than what HKDF can give");
    LessSafeKey::new(UnboundKey::from(derived))
}

#[cfg(test)]
mod tests;
