//! Each call on a real folder.

use std::cell::{Cell, RefCell};
use std::io::IoSlice;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::mpsc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::file::{PARTS_PER_CALL_MAX, write_all};
use super::*;

/// A folder `log` in a place of its own.
fn folder() -> (tempfile::TempDir, SystemFiles) {
    let place = tempfile::tempdir().unwrap();
    let files = SystemFiles::new(place.path());
    files.make_folder("log").unwrap();
    (place, files)
}

fn read(file: &dyn File, offset: u64, length: usize) -> Vec<u8> {
    let mut buffer = vec![0xee; length];
    let read = file.read_at(offset, &mut buffer).unwrap();
    buffer.truncate(read);
    buffer
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn folders_are_made_with_those_above_and_once() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("a/b");
    let files = SystemFiles::new(&root);
    for _ in 0..2 {
        files.make_folder("image").unwrap();
    }
    assert_eq!(mode(&root.join("image")), FOLDER_MODE);
    assert_eq!(mode(&root), FOLDER_MODE);
    assert_eq!(files.names("image").unwrap(), Vec::<String>::new());
    assert_eq!(
        files.location("image"),
        root.join("image").display().to_string()
    );
    fs::write(root.join("file"), b"").unwrap();
    let taken = files.make_folder("file").unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
}

#[test]
fn only_plain_paths_are_taken() {
    let (_place, files) = folder();
    for path in [
        "", "/", "/etc", "..", ".", "log/..", "log/../x", "log//x", "log/", "log/a/b", "log/a b",
        "log/\0", "log/ä",
    ] {
        let refused = |result: io::Result<()>| {
            let kind = result.map_err(|error| error.kind());
            assert_eq!(kind, Err(io::ErrorKind::InvalidInput), "{path:?}");
        };
        refused(files.make_folder(path));
        refused(files.names(path).map(drop));
        refused(files.open(path, OpenMode::New).map(drop));
        refused(files.remove(path));
        refused(files.sync_folder(path));
        refused(files.lock(path).map(drop));
    }
}

#[test]
fn files_are_opened_listed_and_removed() {
    let (place, files) = folder();
    let kind = |result: io::Result<Arc<dyn File>>| result.map(drop).map_err(|error| error.kind());
    let missing = kind(files.open("log/0001", OpenMode::Existing));
    assert_eq!(missing, Err(io::ErrorKind::NotFound));
    let file = files.open("log/0001", OpenMode::New).unwrap();
    assert_eq!(mode(&place.path().join("log/0001")), FILE_MODE);
    let taken = kind(files.open("log/0001", OpenMode::New));
    assert_eq!(taken, Err(io::ErrorKind::AlreadyExists));
    assert_eq!(kind(files.open("log/0001", OpenMode::Existing)), Ok(()));
    assert_eq!(files.names("log").unwrap(), ["0001"]);
    files.sync_folder("log").unwrap();

    file.write_at(0, &[IoSlice::new(b"kept")]).unwrap();
    files.remove("log/0001").unwrap();
    assert_eq!(files.names("log").unwrap(), Vec::<String>::new());
    assert_eq!(read(&*file, 0, 4), b"kept", "whoever has it open keeps it");
    let error = files.remove("log/0001").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("log/0001"), "{error}");
}

#[test]
fn bytes_are_where_they_were_written() {
    let (_place, files) = folder();
    let file = files.open("log/f", OpenMode::New).unwrap();
    let parts = [&b""[..], b"ab", b"", b"cde", b""].map(IoSlice::new);
    file.write_at(3, &parts).unwrap();
    file.write_at(100, &[]).unwrap();
    assert_eq!(file.length().unwrap(), 8);
    assert_eq!(read(&*file, 0, 100), b"\0\0\0abcde");
    assert_eq!(read(&*file, 4, 2), b"bc");
    assert_eq!(read(&*file, 8, 10), b"");
    assert_eq!(read(&*file, 1000, 10), b"");
    file.set_length(5).unwrap();
    file.set_length(7).unwrap();
    assert_eq!(read(&*file, 0, 100), b"\0\0\0ab\0\0");
    file.sync().unwrap();
    assert_eq!(read(&*file, 0, 100), b"\0\0\0ab\0\0");
}

#[test]
fn a_write_of_more_parts_than_one_call_takes() {
    let (_place, files) = folder();
    let file = files.open("log/f", OpenMode::New).unwrap();
    let bytes: Vec<u8> = (0..3 * PARTS_PER_CALL_MAX).map(|at| at as u8).collect();
    let parts: Vec<_> = bytes.chunks(1).map(IoSlice::new).collect();
    file.write_at(0, &parts).unwrap();
    assert_eq!(read(&*file, 0, usize::from(u16::MAX)), bytes);
}

#[test]
fn short_and_interrupted_writes_go_on() {
    let bytes: Vec<u8> = (0..5000).map(|at| at as u8).collect();
    let parts: Vec<_> = bytes.chunks(3).map(IoSlice::new).collect();
    let (written, calls) = (RefCell::new(Vec::new()), Cell::new(0));
    let write = |parts: &[IoSlice<'_>], offset| {
        let mut written = written.borrow_mut();
        assert_eq!(offset, 7 + written.len() as u64);
        assert!(parts.len() <= PARTS_PER_CALL_MAX);
        calls.set(calls.get() + 1);
        if calls.get() % 3 == 0 {
            return Err(Errno::INTR);
        }
        let offered: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let taken = offered.len().min(calls.get());
        written.extend_from_slice(&offered[..taken]);
        Ok(taken)
    };
    write_all(7, &parts, write).unwrap();
    assert_eq!(*written.borrow(), bytes);
    let full = write_all(0, &parts, |_, _| Err(Errno::NOSPC)).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
}

#[test]
fn too_many_open_files_can_be_told() {
    let kind = |errno: Errno| at(Path::new("p"), errno.into()).kind();
    assert_eq!(kind(Errno::MFILE), io::ErrorKind::ResourceBusy);
    assert_eq!(kind(Errno::NFILE), io::ErrorKind::ResourceBusy);
    assert_eq!(kind(Errno::NOSPC), io::ErrorKind::StorageFull);
}

#[test]
fn one_has_the_lock() {
    let (_place, files) = folder();
    let held = files.lock("log").unwrap().expect("nobody has it");
    let began = Instant::now();
    assert!(files.lock("log").unwrap().is_none());
    assert!(began.elapsed() >= lock::TIME_MAX);
    let waiting = thread::spawn(move || files.lock("log").unwrap().is_some());
    thread::sleep(Duration::from_millis(50));
    drop(held);
    assert!(waiting.join().unwrap(), "it waits for who lets go");
}

#[test]
fn a_lock_needs_its_folder() {
    let (_place, files) = folder();
    let error = files.lock("missing").map(drop).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

/// On which thread a job ran.
fn thread_of_a_job(files: &SystemFiles) -> ThreadId {
    let (sender, receiver) = mpsc::channel();
    files.aside(Box::new(move || {
        sender.send(thread::current().id()).unwrap();
    }));
    receiver.recv().unwrap()
}

#[tokio::test]
async fn within_a_runtime_jobs_run_aside() {
    let (_place, files) = folder();
    assert_ne!(thread_of_a_job(&files), thread::current().id());
}

#[test]
fn without_a_runtime_jobs_run_at_once() {
    let (_place, files) = folder();
    assert_eq!(thread_of_a_job(&files), thread::current().id());
}
