//! Random calls, against a vector of bytes.

use std::io::IoSlice;

use super::{PATH, SEEDS, disk, kill};
use crate::env::memory::files::content::SECTOR_BYTES;
use crate::env::memory::{Crash, SeededEntropy};
use crate::env::{EntropyExt, Files, OpenMode};

/// Reads follow a plain vector of bytes; a power cut leaves sectors of the last sync or of now.
#[test]
fn random_calls_match_a_vector() {
    const LONGEST: u64 = 5000;
    for seed in 0..SEEDS {
        let chance = SeededEntropy::new(seed);
        let below = |bound: u64| usize::try_from(chance.below(bound)).unwrap();
        let (files, mut file) = disk();
        let (mut now, mut synced) = (Vec::new(), Vec::new());
        for step in 0..200_u8 {
            match chance.below(12) {
                0..=5 => {
                    let (offset, bytes) = (below(LONGEST), vec![step; below(1500)]);
                    let cut = below(bytes.len() as u64);
                    let parts = [IoSlice::new(&bytes[..cut]), IoSlice::new(&bytes[cut..])];
                    file.write_at(offset as u64, &parts).unwrap();
                    if !bytes.is_empty() {
                        now.resize(now.len().max(offset + bytes.len()), 0);
                        now[offset..offset + bytes.len()].copy_from_slice(&bytes);
                    }
                }
                6..=7 => {
                    now.resize(below(LONGEST), 0);
                    file.set_length(now.len() as u64).unwrap();
                }
                8..=9 => {
                    file.sync().unwrap();
                    synced.clone_from(&now);
                }
                10 => {
                    kill(&files);
                    file = files.open(PATH, OpenMode::Existing).unwrap();
                }
                _ => {
                    files.crash(Crash::PowerCut, &chance);
                    let left = files.contents(PATH).unwrap();
                    check_power_cut(&synced, &now, &left);
                    (now, synced) = (left.clone(), left);
                    file = files.open(PATH, OpenMode::Existing).unwrap();
                }
            }
            let offset = below(LONGEST).min(now.len());
            let mut bytes = vec![0; below(3000)];
            let count = file.read_at(offset as u64, &mut bytes).unwrap();
            assert_eq!(count, bytes.len().min(now.len() - offset));
            assert_eq!(bytes[..count], now[offset..offset + count]);
        }
    }
}

fn check_power_cut(synced: &[u8], now: &[u8], left: &[u8]) {
    let (shorter, longer) = (synced.len().min(now.len()), synced.len().max(now.len()));
    assert!((shorter..=longer).contains(&left.len()));
    let of = |bytes: &[u8], at: usize| bytes.get(at).copied();
    for start in (0..left.len()).step_by(SECTOR_BYTES) {
        let sector = start..left.len().min(start + SECTOR_BYTES);
        let old = |at| left[at] == of(synced, at).unwrap_or(0);
        // Where the file was cut the sector's old end is still there.
        let new = |at| Some(left[at]) == of(now, at).or(of(synced, at)) || left[at] == 0;
        assert!(sector.clone().all(old) || sector.clone().all(new));
    }
}
