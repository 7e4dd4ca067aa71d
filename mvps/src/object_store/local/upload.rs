//! Where the parts of an upload are until they are an object.
//!
//! ```text
//! .uploads/<id>/key                the object's key; it goes first when the upload ends
//! .uploads/<id>/content-<bytes>    parts of an object whose parts have that size, each in its place
//! .uploads/<id>/part-<number>      a part that came while its place was not known
//! .uploads/<id>/object             a file of content on its way to the object's name
//! ```
//!
//! All parts but the last have the size of the first, so that a part is written where it is in the
//! object, and the file becomes the object by a second name: its bytes are written once. Only what
//! came before its place was known (a short last part, before all others), is copied.
//!
//! A tag is a part's checksum and its length. Whether a part is where it should be is found by
//! reading it: nothing else says so.
//!
//! Invariant: a file of content is written only under its lock (shared for parts, exclusive to
//! complete the upload), and never by a part once it has a second name. A late request for a part
//! cannot change an object.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use mvps_core::env::PartTag;

use crate::files::{make_folders, sync_folder};

/// As S3: smaller parts before the last are a mistake that should show on every store.
const PART_MIN_BYTES: u64 = 5 * 1024 * 1024;
/// For the folders of keys; the user's mask narrows it, as for objects.
const FOLDER_MODE: u32 = 0o777;
/// Tries to name an object. Deletions remove folders that are empty, perhaps the one just made.
const NAMING_TRIES_MAX: usize = 8;

const CONTENT: &str = "content-";

/// The folder of an upload.
#[derive(Debug, Clone)]
pub(super) struct UploadFolder {
    pub(super) path: PathBuf,
}

/// A part as it is in the object.
#[derive(Debug, PartialEq, Eq)]
struct Part<'a> {
    number: u64,
    /// In the object.
    offset: u64,
    length: u64,
    tag: &'a PartTag,
}

/// A part's tag.
pub(super) fn tag(body: &[u8]) -> PartTag {
    let checksum = xxhash_rust::xxh3::xxh3_128(body);
    PartTag(format!("{checksum:032x}-{}", body.len()))
}

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason.into())
}

impl UploadFolder {
    /// Writes part `number` to its place; false if that is not known yet.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if the upload has ended; what else the system says.
    pub(super) fn write_part(&self, number: u32, body: &[u8]) -> io::Result<bool> {
        let Some(index) = number.checked_sub(1) else {
            return Err(invalid("parts are numbered from 1"));
        };
        let Some(slot) = slot_bytes(&self.content_sizes()?, number, body.len() as u64) else {
            return Ok(false);
        };
        let path = self.content(slot);
        let mut options = OpenOptions::new();
        let file = options
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)?;
        file.lock_shared()?;
        if !is_at(&file, &path)? || file.metadata()?.nlink() > 1 {
            return Err(io::ErrorKind::NotFound.into());
        }
        file.write_all_at(body, u64::from(index) * slot)?;
        Ok(true)
    }

    /// Makes the object of its parts, durably. After an error it may be called again, also if the
    /// object is there already.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if the parts are not those that were uploaded; what else the
    /// system says.
    pub(super) fn complete(&self, tags: &[PartTag], object: &Path) -> io::Result<()> {
        let parts = layout(tags)?;
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
            return Err(invalid("an upload of no parts"));
        };
        let path = self.content(first.length);
        let content = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(invalid("part 1 was not uploaded"));
            }
            opened => opened?,
        };
        content.lock()?;
        if !is_at(&content, &path)? {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut misplaced = Vec::new();
        for part in &parts {
            if read(&content, part.offset, part)?.is_none() {
                misplaced.push((part, self.find(part)?));
            }
        }
        let length = last.offset + last.length;
        if !misplaced.is_empty() || content.metadata()?.len() != length {
            if content.metadata()?.nlink() > 1 {
                return Err(invalid("the upload was completed with other parts"));
            }
            for (part, place) in misplaced {
                let body = place.body(part)?;
                content.write_all_at(&body, part.offset)?;
            }
            content.set_len(length)?;
        }
        content.sync_all()?;
        self.name(&path, object)
    }

    /// Gives `content` the object's name. It keeps its own, so that this can be done again.
    fn name(&self, content: &Path, object: &Path) -> io::Result<()> {
        let staged = self.path.join("object");
        match fs::remove_file(&staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::hard_link(content, &staged)?,
        }
        let folder = object.parent().unwrap_or(object);
        let mut tries = 1;
        loop {
            match fs::rename(&staged, object) {
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && tries < NAMING_TRIES_MAX =>
                {
                    make_folders(folder, FOLDER_MODE)?;
                    tries += 1;
                }
                Err(error) => return Err(error),
                Ok(()) => return sync_folder(folder),
            }
        }
    }

    fn content(&self, slot: u64) -> PathBuf {
        self.path.join(format!("{CONTENT}{slot}"))
    }

    /// The sizes of parts for which there is a file of content.
    fn content_sizes(&self) -> io::Result<Vec<u64>> {
        let mut sizes = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let size = name.to_str().and_then(|name| name.strip_prefix(CONTENT));
            sizes.extend(size.and_then(|size| size.parse::<u64>().ok()));
        }
        Ok(sizes)
    }

    /// Where a part is that is not in its place.
    fn find(&self, part: &Part<'_>) -> io::Result<Place> {
        let own = self.path.join(part_name(part.number));
        let mut places = vec![(own, 0)];
        for slot in self.content_sizes()? {
            places.extend(Some(self.content(slot)).zip((part.number - 1).checked_mul(slot)));
        }
        for (path, offset) in places {
            let place = Place { path, offset };
            match place.body(part) {
                Ok(_) => return Ok(place),
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Err(other_tag(part))
    }
}

/// The name of a file that holds one part.
pub(super) fn part_name(number: impl Into<u64>) -> String {
    format!("part-{:05}", number.into())
}

/// Where a part was found.
struct Place {
    path: PathBuf,
    offset: u64,
}

impl Place {
    fn body(&self, part: &Part<'_>) -> io::Result<Vec<u8>> {
        let body = read(&File::open(&self.path)?, self.offset, part)?;
        body.ok_or_else(|| other_tag(part))
    }
}

fn other_tag(part: &Part<'_>) -> io::Error {
    let number = part.number;
    invalid(format!(
        "part {number} was not uploaded, or has another tag"
    ))
}

/// The part's bytes at `offset` of a file, if that is what is there.
fn read(file: &File, offset: u64, part: &Part<'_>) -> io::Result<Option<Vec<u8>>> {
    let there = file.metadata()?.len().saturating_sub(offset);
    let Some(length) = usize::try_from(part.length)
        .ok()
        .filter(|_| part.length <= there)
    else {
        return Ok(None);
    };
    let mut body = vec![0; length];
    file.read_exact_at(&mut body, offset)?;
    Ok((tag(&body) == *part.tag).then_some(body))
}

/// Whether `path` is the name of the open `file`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let here = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The size of the parts among which a part has its place: the first part's, which any other part
/// of a proper size shares, and which a shorter last part is told by others. `None` while a part
/// may be the last.
fn slot_bytes(known: &[u64], number: u32, length: u64) -> Option<u64> {
    if number == 1 {
        return Some(length);
    }
    let fitting = known.iter().copied().filter(|slot| *slot >= length).min();
    fitting.or((length >= PART_MIN_BYTES).then_some(length))
}

/// Where the parts of these tags are in the object.
fn layout(tags: &[PartTag]) -> io::Result<Vec<Part<'_>>> {
    let mut parts = Vec::<Part<'_>>::with_capacity(tags.len());
    let mut offset: u64 = 0;
    for (number, tag) in (1..).zip(tags) {
        let length = tag
            .0
            .split_once('-')
            .and_then(|(_, length)| length.parse().ok());
        let length: u64 = length.ok_or_else(|| invalid(format!("no tag of a part: {}", tag.0)))?;
        let is_last = number == tags.len() as u64;
        if length < PART_MIN_BYTES && !is_last {
            return Err(invalid(format!("part {number} is too small: {length}")));
        }
        if !is_last && parts.first().is_some_and(|first| first.length != length) {
            return Err(invalid(format!(
                "part {number} is not as long as the first"
            )));
        }
        parts.push(Part {
            number,
            offset,
            length,
            tag,
        });
        let end = offset.checked_add(length);
        offset = end.ok_or_else(|| invalid("an object longer than any file"))?;
    }
    Ok(parts)
}
