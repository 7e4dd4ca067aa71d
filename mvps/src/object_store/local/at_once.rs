//! Reads that need not wait for the disk: the way to the file and its bytes are in the caches of the
//! system. Handing such a read to a thread that may wait takes longer than the read itself
//! (`mvps/docs/decisions/performance.md`).
//!
//! Must never: wait for the disk, or return anything but the whole range.

use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{ReadWriteFlags, preadv2};

/// The longest such read: a frame as it is stored, a few times over. Copying more than that holds an
/// executor's thread for longer than a hand-over takes.
const LENGTH_MAX: u64 = 256 << 10;

/// A folder whose files are read.
pub(super) struct ReadsAtOnce {
    folder: OwnedFd,
}

impl ReadsAtOnce {
    /// Reads below `folder`.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(super) fn below(folder: &Path) -> io::Result<Self> {
        let folder = std::fs::File::open(folder)?;
        Ok(Self {
            folder: folder.into(),
        })
    }

    /// These bytes of the file at `path`, if that is possible without waiting: `None` also for
    /// whatever error there is, which the caller meets again.
    pub(super) fn read(&self, path: &str, range: &Range<u64>) -> Option<Bytes> {
        let length = range.end.checked_sub(range.start)?;
        if length == 0 || length > LENGTH_MAX {
            return None;
        }
        // Systems before Linux 5.12, and some sandboxes, refuse this.
        let file = openat2(
            &self.folder,
            path,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
            ResolveFlags::CACHED | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        );
        let file = file.ok()?;
        let mut content = BytesMut::zeroed(usize::try_from(length).ok()?);
        let mut buffers = [IoSliceMut::new(&mut content)];
        let read = preadv2(&file, &mut buffers, range.start, ReadWriteFlags::NOWAIT);
        (read.ok()? == content.len()).then(|| content.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_what_is_cached_and_says_when_it_cannot() {
        let folder = tempfile::tempdir().expect("a folder");
        let content: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
        std::fs::create_dir(folder.path().join("a")).expect("a folder");
        std::fs::write(folder.path().join("a/b"), &content).expect("a file");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/etc/hostname", link).expect("a link");
        let reads = ReadsAtOnce::below(folder.path()).expect("it opens");
        // What was just written is in the page cache. Where the system has no such calls there is
        // nothing to show.
        if let Some(read) = reads.read("a/b", &(10..70_000)) {
            assert_eq!(read, content[10..70_000]);
        }
        for (path, range) in [
            ("a/b", 90_000..100_001),
            ("a/b", 5..5),
            ("a/b", 0..LENGTH_MAX + 1),
            ("a/c", 0..10),
            ("a", 0..10),
            ("link", 0..1),
            ("../b", 0..1),
            ("/etc/hostname", 0..1),
        ] {
            assert_eq!(reads.read(path, &range), None, "{path} {range:?}");
        }
    }
}
