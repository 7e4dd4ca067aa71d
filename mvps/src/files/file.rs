//! An open file. Short reads and writes, and calls that a signal interrupts, go on here.

use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use mvps_core::env::File;
use rustix::io::{Errno, pwritev};

use super::at;

/// Parts that Linux takes in one call (`IOV_MAX`).
pub(super) const PARTS_PER_CALL_MAX: usize = 1024;

/// An open file of the operating system.
#[derive(Debug)]
pub(super) struct SystemFile {
    file: fs::File,
    path: PathBuf,
}

impl SystemFile {
    pub(super) fn new(file: fs::File, path: PathBuf) -> Self {
        Self { file, path }
    }

    fn named<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| at(&self.path, error))
    }
}

impl File for SystemFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let rest = &mut buffer[filled..];
            match self.file.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.named(Err(error)),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let call = |parts: &[IoSlice<'_>], offset| pwritev(&self.file, parts, offset);
        self.named(write_all(offset, parts, call))
    }

    fn length(&self) -> io::Result<u64> {
        let metadata = self.named(self.file.metadata())?;
        Ok(metadata.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.named(self.file.set_len(length))
    }

    fn sync(&self) -> io::Result<()> {
        // A sync is not tried again, whatever it says: the second one may succeed without the
        // bytes.
        self.named(self.file.sync_data())
    }
}

/// Calls `write` until all of `parts` is written.
pub(super) fn write_all(
    mut offset: u64,
    parts: &[IoSlice<'_>],
    write: impl Fn(&[IoSlice<'_>], u64) -> Result<usize, Errno>,
) -> io::Result<()> {
    for some in parts.chunks(PARTS_PER_CALL_MAX) {
        // Copied, as what remains of a part is another slice.
        let mut some = some.to_vec();
        let mut rest = &mut some[..];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let written = uninterrupted(|| write(rest, offset))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut rest, written);
            offset += written as u64;
        }
    }
    Ok(())
}

/// Calls `call` again while signals interrupt it.
fn uninterrupted<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            outcome => return outcome,
        }
    }
}
