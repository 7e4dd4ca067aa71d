//! Files of disk content for the drivers: reproducible, part compressible, part not, with holes.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Result, bail};

use crate::rig::numbers::Numbers;

/// How the stretches of a file of content are long.
const STRETCH_BYTES: usize = 256 * 1024;

/// Writes a file of `size_bytes`: stretches of noise, of text-like repetition, and holes.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, size_bytes: u64, seed: u64) -> Result<()> {
    let mut numbers = Numbers::new(seed);
    let mut file = File::create(path)?;
    file.set_len(size_bytes)?;
    let mut stretch = vec![0_u8; STRETCH_BYTES];
    let mut at = 0;
    while at < size_bytes {
        let length = STRETCH_BYTES.min(usize::try_from(size_bytes - at)?);
        match numbers.below(3) {
            0 => {
                file.seek(SeekFrom::Current(i64::try_from(length)?))?;
            }
            1 => {
                numbers.fill(&mut stretch[..length]);
                file.write_all(&stretch[..length])?;
            }
            _ => {
                let word = numbers.next().to_le_bytes();
                for (index, byte) in stretch.iter_mut().enumerate() {
                    *byte = word[index % 8] ^ u8::try_from(index / 4096 % 256)?;
                }
                file.write_all(&stretch[..length])?;
            }
        }
        at += u64::try_from(length)?;
    }
    Ok(())
}

/// Compares the first `length_bytes` of two files.
///
/// # Errors
/// Names the first byte that differs.
pub fn compare(one: &Path, other: &Path, length_bytes: u64) -> Result<()> {
    let open = |path| -> Result<_> {
        let file = BufReader::with_capacity(STRETCH_BYTES, File::open(path)?);
        Ok(file.take(length_bytes))
    };
    let (mut one, mut other) = (open(one)?, open(other)?);
    let (mut left, mut right) = (vec![0_u8; STRETCH_BYTES], vec![0_u8; STRETCH_BYTES]);
    let mut at = 0_u64;
    while at < length_bytes {
        let length = STRETCH_BYTES.min(usize::try_from(length_bytes - at)?);
        one.read_exact(&mut left[..length])?;
        other.read_exact(&mut right[..length])?;
        let pairs = left[..length].iter().zip(&right[..length]);
        if let Some(index) = pairs.into_iter().position(|(a, b)| a != b) {
            bail!("byte {} differs", at + u64::try_from(index)?);
        }
        at += u64::try_from(length)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_byte_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (directory.path().join("1"), directory.path().join("2"));
        let size = 3 * 1024 * 1024 + 17;
        write(&one, size, 7).unwrap();
        write(&other, size, 7).unwrap();
        compare(&one, &other, size).unwrap();
        let mut file = File::options().write(true).open(&other).unwrap();
        file.seek(SeekFrom::Start(size - 1)).unwrap();
        let mut last = [0];
        let mut source = File::open(&one).unwrap();
        source.seek(SeekFrom::Start(size - 1)).unwrap();
        source.read_exact(&mut last).unwrap();
        file.write_all(&[!last[0]]).unwrap();
        let error = compare(&one, &other, size).unwrap_err();
        assert!(error.to_string().contains(&(size - 1).to_string()));
    }
}
