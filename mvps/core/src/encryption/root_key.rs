//! Root keys: the operator's. The first of a list wraps, all of them unwrap.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hkdf::{HKDF_SHA256, KeyType, Prk};
use zeroize::{Zeroize as _, Zeroizing};

use super::root_key_id::{ROOT_KEYS_MAX, RootKeyId};
use super::{KEY_BYTES, RootKeyError};

/// Bytes of a root key.
pub const ROOT_KEY_BYTES: usize = KEY_BYTES;

/// What an id is derived for.
const ID_PURPOSE: &[u8] = b"mvps root key id 1";

/// One root key. Prints nothing of itself, and is wiped from memory when it is dropped.
#[derive(Clone)]
pub struct RootKey {
    secret: Zeroizing<[u8; KEY_BYTES]>,
    id: RootKeyId,
}

/// Eight bytes, for [`Prk::expand`].
struct IdLength;

impl KeyType for IdLength {
    fn len(&self) -> usize {
        size_of::<u64>()
    }
}

impl RootKey {
    /// The root key with these bytes, which should be random.
    #[must_use]
    pub fn new(secret: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        let mut id = [0; size_of::<u64>()];
        Prk::new_less_safe(HKDF_SHA256, &*secret)
            .expand(&[ID_PURPOSE], IdLength)
            .and_then(|derived| derived.fill(&mut id))
            .expect("eight bytes are shorter than what HKDF can give");
        Self {
            secret,
            id: RootKeyId(u64::from_be_bytes(id)),
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> RootKeyId {
        self.id
    }

    pub(super) fn secret(&self) -> &[u8; KEY_BYTES] {
        &self.secret
    }

    fn parse(text: &str) -> Option<Self> {
        // Longer than the key: the decoder asks for room for what four characters more would give.
        let mut decoded = Zeroizing::new([0_u8; KEY_BYTES + 4]);
        let length = STANDARD.decode_slice(text, &mut decoded[..]).ok()?;
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        if length != KEY_BYTES {
            decoded.zeroize();
            return None;
        }
        secret.copy_from_slice(&decoded[..KEY_BYTES]);
        Some(Self::new(secret))
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RootKey({})", self.id)
    }
}

/// The root keys that a process was given.
#[derive(Debug, Clone, Default)]
pub struct RootKeys {
    keys: Vec<RootKey>,
    /// Images that are not encrypted are refused.
    required: bool,
}

impl RootKeys {
    /// No root key: nothing is encrypted, and nothing that is can be read.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// These, of which the first wraps.
    #[must_use]
    pub fn new(keys: Vec<RootKey>) -> Self {
        Self {
            keys,
            required: false,
        }
    }

    /// The keys that `text` lists: each 32 bytes in base64, separated by commas.
    ///
    /// # Errors
    /// [`RootKeyError`], which does not repeat the text.
    pub fn parse(text: &str) -> Result<Self, RootKeyError> {
        let mut keys = Vec::new();
        for (number, text) in (1..).zip(text.split(',')) {
            if number > ROOT_KEYS_MAX {
                return Err(RootKeyError::TooMany);
            }
            let key = RootKey::parse(text.trim());
            keys.push(key.ok_or(RootKeyError::NotAKey { number })?);
        }
        Ok(Self::new(keys))
    }

    /// The same keys, and images that are not encrypted are refused.
    #[must_use]
    pub fn requiring_encryption(self) -> Self {
        Self {
            required: true,
            ..self
        }
    }

    /// Whether images that are not encrypted are refused.
    #[must_use]
    pub fn require_encryption(&self) -> bool {
        self.required
    }

    /// The one that wraps, if there is one.
    #[must_use]
    pub fn first(&self) -> Option<&RootKey> {
        self.keys.first()
    }

    pub(super) fn find(&self, id: RootKeyId) -> Option<&RootKey> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// Their ids, for people.
    pub(super) fn ids(&self) -> String {
        let ids: Vec<String> = self.keys.iter().map(|key| key.id.to_string()).collect();
        ids.join(", ")
    }
}
