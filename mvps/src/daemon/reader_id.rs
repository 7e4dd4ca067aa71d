//! The names under which this server pins the versions it serves ([`ReaderLife`]): the stable id of
//! its folder, `host-<random>`, made once and kept beside its buffer stores; the line of lives that
//! follow each other in that folder; and a life of its own for every start.
//!
//! What is guaranteed: a server takes away the pins of earlier lives of its own line, and of no
//! other. A life is of the line of the one before it only if both held the lock of the very same
//! file in the same boot of the machine; then the earlier one has ended, because one process holds
//! a lock, and the system takes it from a process only when that has ended. A copy of the folder
//! has another lock file, a clone of the machine has another boot, so neither is of the line, even
//! if it was copied while the server ran. A machine that starts anew begins a new line, too: from a
//! clone's first boot that cannot be told. The pins of the line before stay then, and
//! `mvps image pins` shows them.
//!
//! Outside this guarantee are machines that go on from one image of their memory more than once.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;
use mvps_core::admin::ReaderLife;
use mvps_core::env::{Entropy, EntropyExt as _};

use super::folder_lock::FolderLock;
use super::stores::host_name;

/// The file with the stable id.
const READER_ID_FILE: &str = "reader-id";

/// The file with the last life, and the lock that it had.
const READER_LIFE_FILE: &str = "reader-life";

/// Longest id that is believed: what follows it, a life and a snapshot's name, has to fit too.
const READER_ID_MAX_BYTES: usize = 256;

/// Begins a life of the server in this folder, which the caller has locked, and records it there.
///
/// # Errors
/// If a file cannot be read or made, or the stable id is none.
pub fn begin_life(
    folder: &Path,
    lock: &FolderLock,
    entropy: &dyn Entropy,
) -> anyhow::Result<ReaderLife> {
    let stable = load_or_make(folder, entropy)?;
    let mark = lock.mark();
    // What a power cut left of the file is of another boot, so of another line.
    let before = fs::read_to_string(folder.join(READER_LIFE_FILE)).ok();
    let before = before
        .as_deref()
        .and_then(|text| line_of(text, mark.as_deref()?));
    let line = before.unwrap_or_else(|| entropy.u64());
    let life = ReaderLife::begin(&stable, line, entropy);
    let text = format!("{life}\n{}\n", mark.unwrap_or_default());
    write_whole(&folder.join(READER_LIFE_FILE), &text).with_context(|| {
        let path = folder.join(READER_LIFE_FILE);
        format!("this start cannot be recorded in {}", path.display())
    })?;
    Ok(life)
}

/// The line of the life that `text` records, if that held the lock `mark`.
fn line_of(text: &str, mark: &str) -> Option<u64> {
    let (life, held) = text.split_once('\n')?;
    let life = ReaderLife::parse(life)?;
    (held.trim_end() == mark).then(|| life.line())
}

/// The last life in this folder: that of the server that runs there, if one does.
#[must_use]
pub fn recorded_life(folder: &Path) -> Option<ReaderLife> {
    let text = fs::read_to_string(folder.join(READER_LIFE_FILE)).ok()?;
    ReaderLife::parse(text.lines().next()?)
}

/// The stable id in this folder; a new one if there is none.
fn load_or_make(folder: &Path, entropy: &dyn Entropy) -> anyhow::Result<String> {
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

fn make(path: &Path, entropy: &dyn Entropy) -> io::Result<String> {
    let host = host_name().unwrap_or_default();
    let plain = host
        .chars()
        .filter(|one| one.is_ascii_alphanumeric() || *one == '-');
    let plain: String = plain.take(64).collect();
    let id = format!("{plain}-{:016x}", entropy.u64());
    write_whole(path, &format!("{id}\n"))?;
    Ok(id)
}

/// Whole or not at all: an empty id after a power cut would be refused.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = File::create(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::OsEntropy;

    fn life(folder: &Path) -> ReaderLife {
        let lock = FolderLock::take(folder).expect("a lock");
        begin_life(folder, &lock, &OsEntropy).expect("a life")
    }

    fn stable(folder: &Path) -> String {
        fs::read_to_string(folder.join(READER_ID_FILE)).expect("an id")
    }

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

    #[test]
    fn lives_that_follow_each_other_are_of_one_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, second) = (life(folder.path()), life(folder.path()));
        assert_ne!(first, second);
        assert_eq!(first.line(), second.line());
        assert_eq!(recorded_life(folder.path()), Some(second));
    }

    /// Also of one that was copied while its server ran.
    #[test]
    fn a_copied_folder_has_the_stable_id_and_no_other_line() {
        let (folder, copy) = (tempfile::tempdir(), tempfile::tempdir());
        let (folder, copy) = (folder.expect("a folder"), copy.expect("a folder"));
        let lock = FolderLock::take(folder.path()).expect("a lock");
        let original = begin_life(folder.path(), &lock, &OsEntropy).expect("a life");
        for file in fs::read_dir(folder.path()).expect("a folder") {
            let file = file.expect("a file");
            fs::copy(file.path(), copy.path().join(file.file_name())).expect("copied");
        }
        let twin = life(copy.path());
        assert_eq!(stable(folder.path()), stable(copy.path()));
        assert_ne!(original.line(), twin.line());
        assert_ne!(life(copy.path()), twin);
    }

    #[test]
    fn another_boot_or_half_a_record_begins_another_line() {
        let check = |damage: &dyn Fn(&str) -> String| {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join(READER_LIFE_FILE);
            let before = life(folder.path());
            let text = fs::read_to_string(&path).expect("a record");
            fs::write(&path, damage(&text)).expect("written");
            assert_ne!(before.line(), life(folder.path()).line());
        };
        check(&|text| text.replace("boot ", "boot 0"));
        check(&|text| text.replace("file ", "file 0"));
        check(&|text| text[..text.len() / 2].to_owned());
        check(&|_| String::new());
    }
}
