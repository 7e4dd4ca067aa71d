//! The name under which this server pins the versions it serves: `host-<random>`, made once and
//! kept beside its buffer stores, so that a server that was killed finds its own pins again and no
//! other server ever takes them for its own.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;
use mvps_core::env::{Entropy, EntropyExt as _};

use super::stores::host_name;

/// The file.
pub const READER_ID_FILE: &str = "reader-id";

/// Longest id that is believed: what follows it, a snapshot's name, has to fit too.
const READER_ID_MAX_BYTES: usize = 256;

/// The reader id in this folder, which the caller has locked; a new one if there is none.
///
/// # Errors
/// If the file cannot be read or made, or is no id.
pub fn load_or_make(folder: &Path, entropy: &dyn Entropy) -> anyhow::Result<String> {
    let path = folder.join(READER_ID_FILE);
    let id = match fs::read_to_string(&path) {
        Ok(text) => text.trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path, entropy)
            .with_context(|| format!("the reader id {} cannot be made", path.display()))?,
        Err(error) => {
            let read = Err(error);
            return read.with_context(|| format!("{} cannot be read", path.display()));
        }
    };
    let printable = id.bytes().all(|byte| byte.is_ascii_graphic());
    anyhow::ensure!(
        printable && (1..=READER_ID_MAX_BYTES).contains(&id.len()),
        "{} is no reader id: delete it, and a new one is made",
        path.display()
    );
    Ok(id)
}

/// Whole or not at all: an empty id after a power cut would be refused.
fn make(path: &Path, entropy: &dyn Entropy) -> io::Result<String> {
    let host = host_name().unwrap_or_default();
    let plain = host
        .chars()
        .filter(|one| one.is_ascii_alphanumeric() || *one == '-');
    let plain: String = plain.take(64).collect();
    let id = format!("{plain}-{:016x}", entropy.u64());
    let draft = path.with_extension("draft");
    let mut file = File::create(&draft)?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::OsEntropy;

    #[test]
    fn an_id_is_made_once_and_differs_from_every_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = load_or_make(folder.path(), &OsEntropy).expect("made");
        let again = load_or_make(folder.path(), &OsEntropy).expect("read");
        assert_eq!(made, again);
        fs::remove_file(folder.path().join(READER_ID_FILE)).expect("removed");
        let other = load_or_make(folder.path(), &OsEntropy).expect("made");
        assert_ne!(made, other);
        fs::write(folder.path().join(READER_ID_FILE), "").expect("written");
        load_or_make(folder.path(), &OsEntropy).expect_err("an empty id");
    }
}
