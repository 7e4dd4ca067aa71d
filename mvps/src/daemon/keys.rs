//! Which tokens the server accepts, and whether it can make one itself.

use std::path::Path;

use anyhow::{Context as _, bail};
use mvps_core::env::{Clock, Entropy};
use mvps_core::ids::ImageId;
use mvps_core::token::{NewToken, TokenKeys};

use super::banner::{EMBEDDED_IMAGE, EMBEDDED_IMAGE_BYTES};
use super::secret::{JwtSecret, SECRET_FILE, SECRET_VARIABLE};
use super::settings::{EMBEDDED_PATH, ImageStoreChoice};

/// How long the printed token is good, in seconds: 30 days.
const EMBEDDED_TOKEN_SECONDS: u64 = 30 * 86_400;

/// The server's keys.
#[derive(Debug)]
pub struct ServerKeys {
    /// What tokens are verified with.
    pub tokens: TokenKeys,
    /// What they can be signed with, if the server has the secret.
    pub secret: Option<JwtSecret>,
}

impl ServerKeys {
    /// The keys that the flags and the environment name. The embedded store makes its own secret
    /// if they name none.
    ///
    /// # Errors
    /// If there is none, or one cannot be used.
    pub fn load(
        public_key: Option<&Path>,
        store: &ImageStoreChoice,
        entropy: &dyn Entropy,
    ) -> anyhow::Result<Self> {
        let mut secret = JwtSecret::from_environment()?;
        if secret.is_none() && public_key.is_none() {
            if *store != ImageStoreChoice::Embedded {
                bail!(
                    "no key to verify tokens with: set {SECRET_VARIABLE} to the secret that signs \
                     them, or give --jwt-public-key FILE"
                );
            }
            let path = Path::new(EMBEDDED_PATH).join(SECRET_FILE);
            secret = Some(JwtSecret::load_or_generate(&path, entropy)?);
        }
        let of_secret = secret
            .as_ref()
            .map(|secret| TokenKeys::from_secret(secret.bytes()));
        let of_secret = of_secret.transpose()?;
        let of_public_key = public_key.map(read_public_key).transpose()?;
        let tokens = match (of_secret, of_public_key) {
            (Some(one), Some(other)) => one.and(other),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => unreachable!("a server without any key was refused above"),
        };
        Ok(Self { tokens, secret })
    }

    /// A ready token for the embedded default, if the server has the secret.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn embedded_token(&self, clock: &dyn Clock) -> anyhow::Result<Option<String>> {
        let Some(secret) = &self.secret else {
            return Ok(None);
        };
        let now = clock.wall();
        let image = ImageId::parse(EMBEDDED_IMAGE).context("the embedded image's name")?;
        let mut token = NewToken::new(&image, now.unix_ms / 1000 + EMBEDDED_TOKEN_SECONDS);
        token.image_size = Some(EMBEDDED_IMAGE_BYTES);
        Ok(Some(token.sign(secret.bytes(), now)?))
    }
}

fn read_public_key(path: &Path) -> anyhow::Result<TokenKeys> {
    let describe = || format!("--jwt-public-key {}", path.display());
    let pem = std::fs::read(path).with_context(describe)?;
    TokenKeys::from_public_key(&pem).with_context(describe)
}
