//! Reads that need not wait for the disk: the way to the file and its bytes are in the caches of the
//! system. Handing such a read to a thread that may wait takes longer than the read itself
//! (`mvps/docs/decisions/performance.md`).
//!
//! Must never: wait for the disk, or return anything but the whole range.

use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use rustix::fs::{Mode, OFlags, ResolveFlags, fstatfs, openat2};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// The longest such read: a frame as it is stored, a few times over. Copying more than that holds an
/// executor's thread for longer than a hand-over takes.
const LENGTH_MAX: u64 = 256 << 10;

/// File systems on which opening and closing a file waits for nobody else, and reads can be asked not to
/// wait: ext4, XFS, Btrfs, tmpfs. Others are served by processes or machines that may be away.
const LOCAL_FILE_SYSTEMS: [u64; 4] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994];

/// A folder whose files are read.
pub(super) struct ReadsAtOnce {
    folder: OwnedFd,
    /// The system has what it takes.
    is_possible: AtomicBool,
}

impl ReadsAtOnce {
    /// Reads below `folder`.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(super) fn below(folder: &Path) -> io::Result<Self> {
        let folder = std::fs::File::open(folder)?;
        // The type of the field differs between platforms.
        let file_system = fstatfs(&folder)?.f_type as u64;
        Ok(Self {
            folder: folder.into(),
            is_possible: AtomicBool::new(LOCAL_FILE_SYSTEMS.contains(&file_system)),
        })
    }

    /// These bytes of the file at `path`, if that is possible without waiting: `None` also for
    /// whatever error there is, which the caller meets again.
    pub(super) fn read(&self, path: &str, range: &Range<u64>) -> Option<Bytes> {
        let length = range.end.checked_sub(range.start)?;
        if length == 0 || length > LENGTH_MAX || !self.is_possible.load(Ordering::Relaxed) {
            return None;
        }
        let file = openat2(
            &self.folder,
            path,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK,
            Mode::empty(),
            ResolveFlags::CACHED | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        );
        let file = self.possible(file)?;
        let mut content = BytesMut::zeroed(usize::try_from(length).ok()?);
        let mut buffers = [IoSliceMut::new(&mut content)];
        let read = preadv2(&file, &mut buffers, range.start, ReadWriteFlags::NOWAIT);
        (self.possible(read)? == content.len()).then(|| content.freeze())
    }

    /// The result, if it is one. A call that the system does not have is not made again: before Linux
    /// 5.12, and in some sandboxes.
    fn possible<T>(&self, result: rustix::io::Result<T>) -> Option<T> {
        if let Err(Errno::NOSYS | Errno::INVAL | Errno::PERM | Errno::OPNOTSUPP) = result {
            self.is_possible.store(false, Ordering::Relaxed);
        }
        result.ok()
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
        // What was just written is in the page cache.
        match reads.read("a/b", &(10..70_000)) {
            Some(read) => assert_eq!(read, content[10..70_000]),
            None => assert!(!reads.is_possible.into_inner(), "this system has it"),
        }
        let reads = ReadsAtOnce::below(folder.path()).expect("it opens");
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
