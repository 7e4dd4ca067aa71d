//! Tokens as a user's own backend would mint them: HS256 over the claims of DESIGN, no help from
//! the daemon under test.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

/// The secret the drivers start the daemon with.
pub const SECRET: &str = "insecure_token";

/// How long a driver's token is good for; longer than any run.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// What a token says beyond image and size.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    /// The image.
    pub image: String,
    /// Its size in bytes; `None` attaches only to what exists.
    pub size_bytes: Option<u64>,
    /// `durability = object-store`.
    pub durable_in_object_store: bool,
    /// `read_only`.
    pub read_only: bool,
    /// `tls_client`.
    pub tls_client: Option<String>,
}

impl Claims {
    /// A token that creates `image` with `size_bytes`, or attaches to it.
    pub fn image(image: &str, size_bytes: u64) -> Self {
        Self {
            image: image.to_owned(),
            size_bytes: Some(size_bytes),
            ..Self::default()
        }
    }

    /// The signed token.
    pub fn sign(&self) -> String {
        self.sign_with(SECRET)
    }

    /// The token signed with another secret.
    pub fn sign_with(&self, secret: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let expires = now.expect("the clock is past 1970") + LIFETIME;
        let mut claims = json!({
            "image_id": self.image,
            "page_size_bits": 12,
            "exp": expires.as_secs(),
        });
        if let Some(size_bytes) = self.size_bytes {
            claims["image_size"] = size_bytes.into();
        }
        if self.durable_in_object_store {
            claims["durability"] = "object-store".into();
        }
        if self.read_only {
            claims["read_only"] = Value::Bool(true);
        }
        if let Some(name) = &self.tls_client {
            claims["tls_client"] = name.as_str().into();
        }
        let key = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::default(), &claims, &key).expect("claims are plain JSON")
    }
}
