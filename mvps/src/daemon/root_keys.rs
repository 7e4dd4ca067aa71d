//! The root keys of the environment. They have no flag, because arguments can be seen by every user
//! of the machine.

use anyhow::bail;
use mvps_core::encryption::{ROOT_KEY_VARIABLE, RootKeys};
use zeroize::Zeroizing;

/// The root keys that the environment lists; none if it says nothing.
///
/// # Errors
/// If it is set and cannot be used. The error does not repeat it.
pub fn root_keys() -> anyhow::Result<RootKeys> {
    match std::env::var(ROOT_KEY_VARIABLE).map(Zeroizing::new) {
        Ok(text) if text.trim().is_empty() => {
            bail!("{ROOT_KEY_VARIABLE} is set but empty: unset it, or set it to a key")
        }
        Ok(text) => Ok(RootKeys::parse(&text)?),
        Err(std::env::VarError::NotPresent) => Ok(RootKeys::none()),
        // The error's own text has the value in it.
        Err(std::env::VarError::NotUnicode(_)) => bail!("{ROOT_KEY_VARIABLE} is not UTF-8"),
    }
}

/// As [`root_keys`], for a server that may be told to serve nothing in the clear.
///
/// # Errors
/// As there, and if it is told so and has no key.
pub fn root_keys_of_server(require_encryption: bool) -> anyhow::Result<RootKeys> {
    let keys = root_keys()?;
    match (require_encryption, keys.first()) {
        (false, _) => Ok(keys),
        (true, Some(_)) => Ok(keys.requiring_encryption()),
        (true, None) => bail!("--require-encryption needs a root key: set {ROOT_KEY_VARIABLE}"),
    }
}
