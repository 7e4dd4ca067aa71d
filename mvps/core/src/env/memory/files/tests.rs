//! Each promise of the disk, one by one.

mod random;

use std::io::{self, ErrorKind, IoSlice};
use std::sync::{Arc, Mutex};

use super::content::SECTOR_BYTES;
use super::{DiskFault, MemoryFiles};
use crate::env::memory::{Crash, SeededEntropy};
use crate::env::{File, Files, OpenMode};

const PATH: &str = "log/a";
const SEEDS: u64 = 64;

/// A disk with an empty file that is durable by name, and that file.
fn disk() -> (MemoryFiles, Arc<dyn File>) {
    let files = MemoryFiles::new();
    files.make_folder("log").unwrap();
    let file = files.open(PATH, OpenMode::New).unwrap();
    files.sync_folder("log").unwrap();
    (files, file)
}

fn write(file: &Arc<dyn File>, offset: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_at(offset, &[IoSlice::new(bytes)])
}

fn cut_power(files: &MemoryFiles, seed: u64) {
    files.crash(Crash::PowerCut, &SeededEntropy::new(seed));
}

fn kill(files: &MemoryFiles) {
    files.crash(Crash::ProcessKill, &SeededEntropy::new(0));
}

#[track_caller]
fn check_ended<T>(outcome: io::Result<T>) {
    let error = outcome.err().expect("the process has ended");
    assert_eq!(error.kind(), ErrorKind::Other);
    assert_eq!(error.to_string(), "the process has ended");
}

/// What all the seeds make of the same disk after a power cut.
fn outcomes<T: Ord>(prepare: impl Fn() -> MemoryFiles, look: impl Fn(&MemoryFiles) -> T) -> Vec<T> {
    let mut found: Vec<T> = (0..SEEDS)
        .map(|seed| {
            let files = prepare();
            cut_power(&files, seed);
            assert_eq!(files.unsynced("log"), 0);
            let once = look(&files);
            cut_power(&files, seed + 1);
            assert!(once == look(&files), "what survives is durable");
            once
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn a_kill_loses_nothing_and_ends_handles_and_locks() {
    let (files, file) = disk();
    write(&file, 0, b"unsynced").unwrap();
    let lock = files.lock("log").unwrap().unwrap();
    assert!(files.lock("log").unwrap().is_none());
    kill(&files);
    check_ended(file.read_at(0, &mut [0; 8]));
    check_ended(write(&file, 0, b"dead"));
    check_ended(file.length());
    check_ended(file.sync());
    assert_eq!(files.contents(PATH).unwrap(), b"unsynced");
    // The dead lock's end is not that of its successor.
    let next = files.lock("log").unwrap().unwrap();
    drop(lock);
    assert!(files.lock("log").unwrap().is_none());
    drop(next);
    assert!(files.lock("log").unwrap().is_some());
}

#[test]
fn a_power_cut_keeps_or_loses_each_sector_on_its_own() {
    let prepare = || {
        let (files, file) = disk();
        write(&file, 0, &[1; 3 * SECTOR_BYTES]).unwrap();
        file.sync().unwrap();
        write(&file, 10, &[2; SECTOR_BYTES]).unwrap();
        assert_eq!(files.unsynced("log"), 2);
        files
    };
    let found = outcomes(prepare, |files| {
        let bytes = files.contents(PATH).unwrap();
        assert_eq!(bytes.len(), 3 * SECTOR_BYTES);
        (bytes[10], bytes[SECTOR_BYTES], bytes[2 * SECTOR_BYTES])
    });
    assert_eq!(found, [(1, 1, 1), (1, 2, 1), (2, 1, 1), (2, 2, 1)]);
}

#[test]
fn a_power_cut_leaves_a_length_between_the_old_and_the_new() {
    let prepare = || {
        let (files, file) = disk();
        write(&file, 0, &[1; 700]).unwrap();
        file.sync().unwrap();
        write(&file, 700, &[2; 1300]).unwrap();
        files
    };
    let found = outcomes(prepare, |files| {
        let bytes = files.contents(PATH).unwrap();
        assert!(bytes[..700].iter().all(|&b| b == 1));
        assert!(bytes[700..].iter().all(|&b| b == 0 || b == 2));
        bytes.len()
    });
    assert!(found.len() > 3);
    assert_eq!((found[0], found[found.len() - 1]), (700, 2000));
}

#[test]
fn what_a_cut_took_away_stays_away_once_synced() {
    let (files, file) = disk();
    write(&file, 0, &[1; 2000]).unwrap();
    file.sync().unwrap();
    file.set_length(100).unwrap();
    file.set_length(1500).unwrap();
    file.sync().unwrap();
    cut_power(&files, 1);
    let bytes = files.contents(PATH).unwrap();
    assert_eq!(bytes[..100], [1; 100]);
    assert_eq!(bytes[100..], [0; 1400]);
}

#[test]
fn names_are_kept_or_undone_each_on_its_own() {
    let prepare = || {
        let (files, file) = disk();
        write(&file, 0, b"old").unwrap();
        file.sync().unwrap();
        write(&file, 0, b"new").unwrap();
        files.remove(PATH).unwrap();
        files.open("log/b", OpenMode::New).unwrap();
        assert_eq!(files.unsynced("log"), 2);
        files
    };
    let found = outcomes(prepare, |files| {
        let old = files.contents(PATH);
        assert!(old.is_none_or(|bytes| bytes == b"old"));
        files.names("log").unwrap().join(" ")
    });
    assert_eq!(found, ["", "a", "a b", "b"]);
}

#[test]
fn synced_names_stay_and_removed_files_stay_open() {
    let (files, file) = disk();
    files.remove(PATH).unwrap();
    files.sync_folder("log").unwrap();
    write(&file, 0, b"nameless").unwrap();
    let mut bytes = [0; 8];
    assert_eq!(file.read_at(0, &mut bytes).unwrap(), 8);
    assert_eq!(&bytes, b"nameless");
    let missing = files.open(PATH, OpenMode::Existing).err().unwrap();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    files.open(PATH, OpenMode::New).unwrap();
    let twice = files.open(PATH, OpenMode::New).err().unwrap();
    assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
    files.sync_folder("log").unwrap();
    cut_power(&files, 1);
    assert_eq!(files.contents(PATH).unwrap(), b"");
    assert_eq!(files.names("").unwrap(), ["log"]);
    assert_eq!(files.location("log"), "memory:log");
}

#[test]
fn a_name_made_anew_means_either_file_or_none() {
    let prepare = || {
        let (files, file) = disk();
        write(&file, 0, b"first").unwrap();
        file.sync().unwrap();
        files.remove(PATH).unwrap();
        let file = files.open(PATH, OpenMode::New).unwrap();
        write(&file, 0, b"second").unwrap();
        file.sync().unwrap();
        files
    };
    let found = outcomes(prepare, |files| files.contents(PATH));
    assert_eq!(found, [None, Some(b"first".into()), Some(b"second".into())]);
}

#[test]
fn what_a_failed_sync_left_is_lost_unless_written_again() {
    for seed in 0..SEEDS {
        let (files, file) = disk();
        write(&file, 0, &[1; 2 * SECTOR_BYTES]).unwrap();
        file.sync().unwrap();
        write(&file, 0, &[2; 3 * SECTOR_BYTES]).unwrap();
        files.script(DiskFault::SyncFails);
        assert_eq!(file.sync().unwrap_err().kind(), ErrorKind::Other);
        assert_eq!(files.contents(PATH).unwrap(), [2; 3 * SECTOR_BYTES]);
        assert_eq!(files.unsynced("log"), 0);
        write(&file, 0, &[2]).unwrap();
        file.sync().unwrap();
        cut_power(&files, seed);
        let bytes = files.contents(PATH).unwrap();
        assert_eq!(bytes[..SECTOR_BYTES], [2; SECTOR_BYTES]);
        assert_eq!(bytes[SECTOR_BYTES..], [1; SECTOR_BYTES]);
    }
}

#[test]
fn faults_strike_the_next_call_they_apply_to_and_the_watcher_is_told() {
    let (files, file) = disk();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    files.watch(move |place, fault| tell.lock().unwrap().push(format!("{place} {fault:?}")));
    for fault in [
        DiskFault::ReadFails,
        DiskFault::DiskFull,
        DiskFault::WriteFails,
        DiskFault::SyncFolderFails,
        DiskFault::OpenFails,
    ] {
        files.script(fault);
    }
    let full = write(&file, 0, &[1; 100]).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    assert_eq!(file.length().unwrap(), 50);
    assert_eq!(
        write(&file, 0, &[1; 200]).unwrap_err().kind(),
        ErrorKind::Other
    );
    assert_eq!(file.length().unwrap(), 100);
    file.read_at(0, &mut [0]).unwrap_err();
    let many = files.open(PATH, OpenMode::Existing).err().unwrap();
    assert_eq!(many.to_string(), "too many open files");
    files.open("log/b", OpenMode::New).unwrap();
    files.sync_folder("log").unwrap_err();
    assert_eq!(files.unsynced("log"), 2);
    files.script(DiskFault::DiskFull);
    let full = files.open("log/c", OpenMode::New).err().unwrap();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    files.script(DiskFault::SyncFails);
    files.heal();
    file.sync().unwrap();
    let expected = [
        "log/a DiskFull",
        "log/a WriteFails",
        "log/a ReadFails",
        "log/a OpenFails",
        "log SyncFolderFails",
        "log/c DiskFull",
    ];
    assert_eq!(*told.lock().unwrap(), expected);
}

#[test]
fn the_capacity_counts_removed_files() {
    let (files, file) = disk();
    files.set_capacity(Some(1000));
    let kind = |outcome: io::Result<()>| outcome.unwrap_err().kind();
    write(&file, 0, &[1; 600]).unwrap();
    let other = files.open("log/b", OpenMode::New).unwrap();
    assert_eq!(kind(write(&other, 0, &[1; 500])), ErrorKind::StorageFull);
    assert_eq!(other.length().unwrap(), 400);
    assert_eq!(kind(other.set_length(401)), ErrorKind::StorageFull);
    files.remove(PATH).unwrap();
    assert_eq!(kind(other.set_length(401)), ErrorKind::StorageFull);
    drop(file);
    other.set_length(1000).unwrap();
    files.set_capacity(None);
    other.set_length(2000).unwrap();
}

#[test]
fn the_process_ends_after_a_number_of_calls() {
    let (files, file) = disk();
    let before = files.calls();
    files.stop_after(Some(1));
    write(&file, 0, &[1; 100]).unwrap();
    file.read_at(0, &mut [0]).unwrap();
    check_ended(write(&file, 100, &[2; 100]));
    assert_eq!(files.calls() - before, 2);
    check_ended(file.read_at(0, &mut [0]));
    check_ended(file.length());
    check_ended(files.names("log"));
    check_ended(files.lock("log"));
    check_ended(files.remove(PATH));
    assert_eq!(files.contents(PATH).unwrap().len(), 150);
    kill(&files);
    let file = files.open(PATH, OpenMode::Existing).unwrap();
    files.stop_after(Some(0));
    check_ended(file.sync());
    assert!(files.unsynced("log") > 0);
}

#[test]
fn folders_are_copied_restored_lost_and_swapped() {
    let (files, file) = disk();
    files.make_folder("other").unwrap();
    let other = files.open("other/b", OpenMode::New).unwrap();
    files.sync_folder("other").unwrap();
    write(&file, 0, b"first").unwrap();
    let (copy, absent) = (files.copy_folder("log"), files.copy_folder("absent"));
    write(&file, 0, b"later").unwrap();
    files.restore_folder("log", &copy);
    check_ended(file.length());
    other.length().unwrap();
    cut_power(&files, 1);
    assert_eq!(files.contents(PATH).unwrap(), b"first");
    let held = files.open(PATH, OpenMode::Existing).unwrap();
    let lock = files.lock("log").unwrap();
    files.swap_folders("log", "other");
    check_ended(held.length());
    assert!(files.lock("log").unwrap().is_some());
    drop(lock);
    assert_eq!(files.paths("other"), ["other/a"]);
    assert_eq!(files.paths("log"), ["log/b"]);
    files.lose_folder("other");
    files.restore_folder("log", &absent);
    assert_eq!(files.names("").unwrap(), Vec::<String>::new());
    assert_eq!(files.names("log").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn damage_is_durable() {
    let (files, file) = disk();
    write(&file, 0, &[1; 8]).unwrap();
    file.sync().unwrap();
    files.overwrite(PATH, 6, &[9; 4]);
    files.truncate(PATH, 7);
    assert_eq!(file.length().unwrap(), 7);
    cut_power(&files, 1);
    assert_eq!(files.contents(PATH).unwrap(), [1, 1, 1, 1, 1, 1, 9]);
    files.delete(PATH);
    cut_power(&files, 2);
    assert_eq!(files.contents(PATH), None);
}
