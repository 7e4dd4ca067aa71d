//! The secret that signs and verifies tokens.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use mvps_core::env::{Entropy, EntropyExt as _};

use super::settings::EMBEDDED_PATH;

/// Environment variable that holds the secret.
pub const SECRET_VARIABLE: &str = "MVPS_TE_JWT_SECRET";

/// The file in [`EMBEDDED_PATH`] that holds the generated secret.
pub const SECRET_FILE: &str = "secret";

/// The secret. Prints nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtSecret(String);

impl JwtSecret {
    /// The secret's bytes, for signing and verifying.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The secret of the environment, if there is one.
    ///
    /// # Errors
    /// If it is set but cannot be used.
    pub fn from_environment() -> anyhow::Result<Option<Self>> {
        match std::env::var(SECRET_VARIABLE) {
            Ok(secret) if secret.is_empty() => bail!("{SECRET_VARIABLE} is set but empty"),
            Ok(secret) => Ok(Some(Self(secret))),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => bail!("{SECRET_VARIABLE} is not UTF-8"),
        }
    }

    /// The secret of the environment, else that of the embedded store if it has one.
    ///
    /// # Errors
    /// If there is neither.
    pub fn of_environment_or_embedded() -> anyhow::Result<Self> {
        if let Some(secret) = Self::from_environment()? {
            return Ok(secret);
        }
        let path = Path::new(EMBEDDED_PATH).join(SECRET_FILE);
        if path.exists() {
            return Self::load(&path);
        }
        bail!("no secret to sign with: set {SECRET_VARIABLE} to the server's")
    }

    /// A secret that is known.
    #[cfg(test)]
    pub(crate) fn of_test(secret: &str) -> Self {
        Self(secret.to_owned())
    }

    /// The secret in the file `path`, which is made, with mode 0600, if there is none.
    ///
    /// # Errors
    /// If it cannot be read or made, or others could read it.
    pub fn load_or_generate(path: &Path, entropy: &dyn Entropy) -> anyhow::Result<Self> {
        if !path.exists() {
            generate(path, entropy)
                .with_context(|| format!("the secret {} cannot be made", path.display()))?;
        }
        Self::load(path)
    }

    fn load(path: &Path) -> anyhow::Result<Self> {
        let describe = || format!("the secret {} cannot be read", path.display());
        let file = File::open(path).with_context(describe)?;
        let mode = file.metadata().with_context(describe)?.permissions().mode();
        if mode & 0o077 != 0 {
            bail!(
                "the secret {path} can be read by others, so anybody could have made tokens with \
                 it: delete it (a new one is made; old tokens stop working) or chmod 600 it",
                path = path.display()
            );
        }
        let secret = io::read_to_string(file)
            .with_context(describe)?
            .trim()
            .to_owned();
        if secret.is_empty() {
            bail!(
                "the secret {} is empty: delete it, and a new one is made",
                path.display()
            );
        }
        Ok(Self(secret))
    }
}

impl fmt::Debug for JwtSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JwtSecret(…)")
    }
}

/// Makes the file whole or not at all, and keeps one that appeared meanwhile.
fn generate(path: &Path, entropy: &dyn Entropy) -> io::Result<()> {
    let draft = path.with_extension(format!("draft-{:016x}", entropy.u64()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)?;
    writeln!(file, "{:032x}{:032x}", entropy.u128(), entropy.u128())?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&draft, path);
    std::fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::OsEntropy;

    #[test]
    fn a_generated_secret_is_private_and_stays() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("secret");
        let first = JwtSecret::load_or_generate(&path, &OsEntropy).expect("made");
        assert_eq!(first.bytes().len(), 64);
        let mode = std::fs::metadata(&path).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = JwtSecret::load_or_generate(&path, &OsEntropy).expect("read");
        assert_eq!(first, second);
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 1);
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("secret");
        std::fs::write(&path, "known to all").expect("write");
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&path, open).expect("chmod");
        let error = JwtSecret::load_or_generate(&path, &OsEntropy).expect_err("refused");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = JwtSecret("hunter2".to_owned());
        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}
