//! Stamps as bytes: every unit names its operation and its own place, and the rest of it is noise
//! that follows from both, so that a torn, misplaced or altered unit is told from a whole one.

use std::ops::Range;

use crate::rig::numbers::Numbers;

use super::history::{Stamp, UNIT_BYTES, ZEROES};

const UNIT: usize = 1024;
const _: () = assert!(UNIT as u64 == UNIT_BYTES);

/// The bytes of a unit.
fn unit_bytes(image: u64, unit: u32, stamp: Stamp) -> [u8; UNIT] {
    let mut bytes = [0; UNIT];
    bytes[..8].copy_from_slice(&stamp.to_le_bytes());
    let mut noise = Numbers::new(image.rotate_left(48) ^ u64::from(unit).rotate_left(32) ^ stamp);
    noise.fill(&mut bytes[8..]);
    bytes
}

/// The bytes of a write of `stamp` to `units` of the image numbered `image`.
pub fn encode(image: u64, units: Range<u32>, stamp: Stamp) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(units.len() * UNIT);
    for unit in units {
        bytes.extend_from_slice(&unit_bytes(image, unit, stamp));
    }
    bytes
}

/// A unit whose bytes no write made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unit {unit} is torn, misplaced or altered; its first bytes say stamp {stamp}")]
pub struct Damaged {
    /// The unit.
    pub unit: u32,
    /// What its first eight bytes say.
    pub stamp: Stamp,
}

/// The stamps of `bytes`, which were read at unit `first`.
///
/// # Errors
/// Names the first unit that is not as it was written.
pub fn decode(image: u64, first: u32, bytes: &[u8]) -> Result<Vec<(u32, Stamp)>, Damaged> {
    let mut stamps = Vec::with_capacity(bytes.len() / UNIT);
    for (unit, bytes) in (first..).zip(bytes.chunks_exact(UNIT)) {
        let (word, rest) = bytes.split_first_chunk::<8>().expect("a unit has more");
        let stamp = Stamp::from_le_bytes(*word);
        let good = match stamp {
            ZEROES => rest.iter().all(|byte| *byte == 0),
            _ => bytes == unit_bytes(image, unit, stamp),
        };
        if !good {
            return Err(Damaged { unit, stamp });
        }
        stamps.push((unit, stamp));
    }
    Ok(stamps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_come_back_and_others_do_not() {
        let bytes = encode(3, 5..8, 77);
        let expected = vec![(5, 77), (6, 77), (7, 77)];
        assert_eq!(decode(3, 5, &bytes).unwrap(), expected);
        assert_eq!(decode(3, 9, &[0; UNIT]).unwrap(), vec![(9, ZEROES)]);
        assert!(decode(3, 6, &bytes).is_err(), "misplaced");
        assert!(decode(4, 5, &bytes).is_err(), "of another image");
        let mut torn = bytes;
        torn[UNIT - 1] ^= 1;
        assert_eq!(decode(3, 5, &torn), Err(Damaged { unit: 5, stamp: 77 }));
    }
}
