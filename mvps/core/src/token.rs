//! Export names: signed tokens and their claims (DESIGN.md §5).
//!
//! Job: decide whether a text is a token that one of this server's keys signed, that has not
//! expired and whose claims make sense, and say what it permits; make such tokens.
//!
//! Invariants:
//! - The algorithm is the key's. The token's header is compared with it and chooses nothing.
//! - `exp` is required and compared with the caller's clock; the library reads none.
//! - A [`Grant`] that exists is within every limit.
//!
//! Must never: put a token or key into an error or `Debug` output, or tell a client why it was
//! refused: [`TokenError`] is for the log, the client hears one generic answer.

use std::collections::HashSet;
use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::env::WallTime;
use crate::ids::{ImageId, PageSize, Version};
use crate::nbd::{EXPORT_NAME_MAX_BYTES, IMAGE_SIZE_MAX_BYTES};

#[cfg(test)]
mod tests;

/// Longest client id: room for every uuid, host name or path that anybody would use.
pub const CLIENT_ID_MAX_BYTES: usize = 256;

/// Page size of a new image whose token names none: 4 KiB, what filesystems write.
pub const DEFAULT_PAGE_SIZE_BITS: u8 = 12;

/// Name of a client that may have one connection at a time; a new one ends the previous one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(String);

impl ClientId {
    fn parse(text: String) -> Option<Self> {
        let fits = (1..=CLIENT_ID_MAX_BYTES).contains(&text.len());
        (fits && !text.contains(char::is_control)).then_some(Self(text))
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Which state of the image a token shows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shown {
    /// The newest, as it changes.
    Newest,
    /// A published version, read-only.
    Version(Version),
    /// A named version, read-only.
    Snapshot(String),
}

/// Where data is safe from, when a FLUSH or FUA is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DurabilityClaim {
    /// In the local buffer store.
    #[default]
    Local,
    /// In the object store.
    ObjectStore,
}

/// What a token permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The image.
    pub image: ImageId,
    /// Size to create it with or grow it to, a multiple of the page size. Always `None` where the
    /// token is read-only.
    pub size_bytes: Option<u64>,
    /// Page size that the image must have, if the token says; see [`Grant::page_size_of_new`].
    pub page_size: Option<PageSize>,
    /// Whether nothing may be changed.
    pub read_only: bool,
    /// Which state is shown.
    pub shown: Shown,
    /// Who connects, if one connection is to replace another.
    pub client: Option<ClientId>,
    /// What FLUSH and FUA promise, if the token says.
    pub durability: Option<DurabilityClaim>,
    /// The name that the client's TLS certificate must prove, if the token says.
    pub tls_client: Option<String>,
}

impl Grant {
    /// Page size of the image if this token creates it.
    #[must_use]
    pub fn page_size_of_new(&self) -> PageSize {
        self.page_size.unwrap_or_else(default_page_size)
    }
}

fn default_page_size() -> PageSize {
    PageSize::from_bits(DEFAULT_PAGE_SIZE_BITS).expect("the default is a page size")
}

/// Why a token is refused. For the log only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token, or of another algorithm than any key's, or not signed by any key.
    #[error("not a token of this server's keys: {reason}")]
    NotSigned {
        /// What the verification said.
        reason: String,
    },
    /// Its time is over.
    #[error("the token expired at {exp} (Unix time); the clock says {now}")]
    Expired {
        /// The claim, in seconds.
        exp: u64,
        /// The server's clock, in seconds.
        now: u64,
    },
    /// A claim is missing or absurd.
    #[error("the claim {claim} is {problem}")]
    Claim {
        /// Its name.
        claim: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// A key that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Neither an Ed25519, a P-256 nor an RSA public key in PEM form.
    #[error("not a public key in PEM form; give an Ed25519, P-256 (ES256) or RSA (RS256) key")]
    NotAPublicKey,
    /// An empty secret would sign anything.
    #[error("the token secret is empty")]
    EmptySecret,
}

struct Key {
    decoding: DecodingKey,
    validation: Validation,
}

impl Key {
    fn new(decoding: DecodingKey, algorithm: Algorithm) -> Self {
        let mut validation = Validation::new(algorithm);
        // The library's own time checks read the system's clock; ours is in `admit`.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims = HashSet::default();
        Self {
            decoding,
            validation,
        }
    }
}

/// The keys whose tokens this server accepts.
pub struct TokenKeys {
    keys: Vec<Key>,
}

impl fmt::Debug for TokenKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithms = self.keys.iter().map(|key| &key.validation.algorithms);
        formatter.debug_list().entries(algorithms).finish()
    }
}

impl TokenKeys {
    /// Accepts HS256 tokens of `secret`.
    ///
    /// # Errors
    /// [`KeyError::EmptySecret`].
    pub fn from_secret(secret: &[u8]) -> Result<Self, KeyError> {
        if secret.is_empty() {
            return Err(KeyError::EmptySecret);
        }
        let key = Key::new(DecodingKey::from_secret(secret), Algorithm::HS256);
        Ok(Self { keys: vec![key] })
    }

    /// Accepts tokens of a public key: EdDSA, ES256 or RS256, as the key's kind says.
    ///
    /// # Errors
    /// [`KeyError::NotAPublicKey`].
    pub fn from_public_key(pem: &[u8]) -> Result<Self, KeyError> {
        let key = if let Ok(key) = DecodingKey::from_ed_pem(pem) {
            Key::new(key, Algorithm::EdDSA)
        } else if let Ok(key) = DecodingKey::from_ec_pem(pem) {
            Key::new(key, Algorithm::ES256)
        } else if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
            Key::new(key, Algorithm::RS256)
        } else {
            return Err(KeyError::NotAPublicKey);
        };
        Ok(Self { keys: vec![key] })
    }

    /// Accepts what either accepts.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.keys.extend(other.keys);
        self
    }

    /// What `token` permits at the time `now`.
    ///
    /// # Errors
    /// [`TokenError`], for the log.
    pub fn admit(&self, token: &str, now: WallTime) -> Result<Grant, TokenError> {
        self.verify(token)?.grant(now)
    }

    fn verify(&self, token: &str) -> Result<RawClaims, TokenError> {
        let mut reason = "no key is configured".to_owned();
        for key in &self.keys {
            match jsonwebtoken::decode::<RawClaims>(token, &key.decoding, &key.validation) {
                Ok(verified) => return Ok(verified.claims),
                Err(error) => reason = fault(&error),
            }
        }
        Err(TokenError::NotSigned { reason })
    }
}

/// What is wrong with a token, for the log. Nothing of it is repeated: anybody may have written it.
fn fault(error: &jsonwebtoken::errors::Error) -> String {
    use jsonwebtoken::errors::ErrorKind;
    let fault = match error.kind() {
        ErrorKind::Json(_) => "its header or its claims are not what a token has",
        ErrorKind::Base64(_) | ErrorKind::Utf8(_) | ErrorKind::InvalidToken => "it is no token",
        ErrorKind::InvalidSignature => "another key signed it",
        ErrorKind::InvalidAlgorithm => "it is signed with another algorithm",
        other => return format!("{other:?}"),
    };
    fault.to_owned()
}

/// The claims as they stand in a token. Unknown ones are ignored.
#[derive(Deserialize)]
struct RawClaims {
    image_id: Option<String>,
    exp: Option<Seconds>,
    page_size_bits: Option<u64>,
    image_size: Option<u64>,
    client_id: Option<String>,
    read_only: Option<bool>,
    snapshot: Option<String>,
    version: Option<u64>,
    durability: Option<DurabilityClaim>,
    tls_client: Option<String>,
}

/// A NumericDate (RFC 7519 §2): whole or fractional seconds since the Unix epoch.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Seconds {
    Whole(u64),
    Fractional(f64),
}

impl Seconds {
    /// Rounded down; `None` where it is no time.
    fn whole(self) -> Option<u64> {
        match self {
            Self::Whole(seconds) => Some(seconds),
            Self::Fractional(seconds) if (0.0..1e15).contains(&seconds) => Some(seconds as u64),
            Self::Fractional(_) => None,
        }
    }
}

fn claim(claim: &'static str, problem: &'static str) -> TokenError {
    TokenError::Claim { claim, problem }
}

impl RawClaims {
    fn grant(self, now: WallTime) -> Result<Grant, TokenError> {
        let exp = self.exp.ok_or_else(|| claim("exp", "missing"))?;
        let exp = exp.whole().ok_or_else(|| claim("exp", "not a time"))?;
        let now = now.unix_ms / 1000;
        if exp <= now {
            return Err(TokenError::Expired { exp, now });
        }
        let image = self.image_id.ok_or_else(|| claim("image_id", "missing"))?;
        let image = ImageId::parse(&image).map_err(|_| claim("image_id", "not an image id"))?;
        let page_size = match self.page_size_bits {
            None => None,
            Some(bits) => Some(
                u8::try_from(bits)
                    .ok()
                    .and_then(PageSize::from_bits)
                    .ok_or_else(|| claim("page_size_bits", "not from 12 to 16"))?,
            ),
        };
        let client = match self.client_id {
            None => None,
            Some(id) => Some(
                ClientId::parse(id)
                    .ok_or_else(|| claim("client_id", "empty, too long or not printable"))?,
            ),
        };
        let shown = match (self.snapshot, self.version) {
            (None, None) => Shown::Newest,
            (None, Some(0)) => return Err(claim("version", "not a version")),
            (None, Some(number)) => Shown::Version(Version(number)),
            // Snapshots are named with the characters of an image id.
            (Some(name), None) if ImageId::parse(&name).is_ok() => Shown::Snapshot(name),
            (Some(_), None) => return Err(claim("snapshot", "not a snapshot's name")),
            (Some(_), Some(_)) => return Err(claim("version", "beside a snapshot")),
        };
        let tls_client = match self.tls_client {
            Some(name) if name.is_empty() || name.len() > CLIENT_ID_MAX_BYTES => {
                return Err(claim("tls_client", "empty or too long"));
            }
            name => name,
        };
        let read_only = self.read_only.unwrap_or(false) || shown != Shown::Newest;
        let size_bytes = match self.image_size {
            None => None,
            Some(size) => Some(checked_size(size, page_size)?),
        };
        Ok(Grant {
            image,
            size_bytes: size_bytes.filter(|_| !read_only),
            page_size,
            read_only,
            shown,
            client,
            durability: self.durability,
            tls_client,
        })
    }
}

fn checked_size(size_bytes: u64, page_size: Option<PageSize>) -> Result<u64, TokenError> {
    let page_bytes = page_size.unwrap_or_else(default_page_size).bytes() as u64;
    if size_bytes == 0 {
        return Err(claim("image_size", "zero"));
    }
    if size_bytes > IMAGE_SIZE_MAX_BYTES {
        return Err(claim("image_size", "larger than NBD can serve"));
    }
    if !size_bytes.is_multiple_of(page_bytes) {
        return Err(claim("image_size", "not a multiple of the page size"));
    }
    Ok(size_bytes)
}

/// The claims of a token that is to be made. What is `None` is left out.
#[derive(Debug, Clone, Serialize)]
pub struct NewToken {
    /// The image's id.
    pub image_id: String,
    /// When it expires, in seconds since the Unix epoch.
    pub exp: u64,
    /// Page size as a power of two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_size_bits: Option<u8>,
    /// Size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_size: Option<u64>,
    /// The client whose earlier connection it replaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Whether nothing may be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// The snapshot to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The version to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// What FLUSH and FUA promise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durability: Option<DurabilityClaim>,
    /// The name that the client's TLS certificate must prove.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client: Option<String>,
}

impl NewToken {
    /// A token for `image` that expires at `exp`, in seconds since the Unix epoch.
    #[must_use]
    pub fn new(image: &ImageId, exp: u64) -> Self {
        Self {
            image_id: image.as_str().to_owned(),
            exp,
            page_size_bits: None,
            image_size: None,
            client_id: None,
            read_only: None,
            snapshot: None,
            version: None,
            durability: None,
            tls_client: None,
        }
    }

    /// Signs it with HS256, if a server with that secret accepts it at the time `now`.
    ///
    /// # Errors
    /// [`TokenError`] saying why a server would refuse it.
    pub fn sign(&self, secret: &[u8], now: WallTime) -> Result<String, TokenError> {
        let key = EncodingKey::from_secret(secret);
        let not_signed = |reason: String| TokenError::NotSigned { reason };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), self, &key)
            .map_err(|error| not_signed(error.to_string()))?;
        if token.len() > EXPORT_NAME_MAX_BYTES {
            return Err(not_signed("longer than an export name may be".to_owned()));
        }
        TokenKeys::from_secret(secret)
            .map_err(|error| not_signed(error.to_string()))?
            .admit(&token, now)?;
        Ok(token)
    }
}
