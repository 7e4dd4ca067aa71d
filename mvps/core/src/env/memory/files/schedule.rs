//! What is going to go wrong on a disk, and when.

use std::collections::VecDeque;
use std::io;

/// One failure, consumed by the next call it applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// The next `sync` fails. Readers see what it should have synced until the next power cut,
    /// which loses it. No later sync brings it to the disk, unless it is written again.
    SyncFails,
    /// The next `sync_folder` fails. The changes of names stay unsynced; the next may succeed.
    SyncFolderFails,
    /// The next `write_at` writes half of its bytes and fails.
    WriteFails,
    /// The next `write_at` writes half of its bytes and finds the disk full; or the next
    /// opening of a new file finds it full.
    DiskFull,
    /// The next `read_at` fails.
    ReadFails,
    /// The next `open` finds that the process has no descriptor left.
    OpenFails,
}

impl DiskFault {
    fn error(self) -> io::Error {
        match self {
            Self::DiskFull => disk_full(),
            Self::OpenFails => io::Error::new(io::ErrorKind::ResourceBusy, "too many open files"),
            fault => io::Error::other(format!("scripted failure: {fault:?}")),
        }
    }
}

/// The disk, or what a test allows of it, is used up.
fn disk_full() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "the disk is full")
}

/// What every call finds whose process did not survive.
pub(super) fn process_ended() -> io::Error {
    io::Error::other("the process has ended")
}

/// Why a call failed, and the scripted failure that it was, if it was one.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) error: io::Error,
    pub(super) fault: Option<DiskFault>,
}

impl Refusal {
    /// The capacity is used up.
    pub(super) fn full() -> Self {
        Self {
            error: disk_full(),
            fault: Some(DiskFault::DiskFull),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self { error, fault: None }
    }
}

/// The scripted failures, and the count of calls after which the process ends.
#[derive(Default)]
pub(super) struct Schedule {
    /// Each with how many calls that it applies to it lets pass.
    faults: VecDeque<(DiskFault, usize)>,
    /// Mutating calls so far.
    calls: u64,
    /// How many mutating calls still succeed; the one after is the process's last.
    calls_left: Option<u64>,
    stopped: bool,
}

impl Schedule {
    pub(super) fn script(&mut self, spared: usize, fault: DiskFault) {
        self.faults.push_back((fault, spared));
    }

    pub(super) fn forget_faults(&mut self) {
        self.faults.clear();
    }

    pub(super) fn stop_after(&mut self, calls: Option<u64>) {
        self.calls_left = calls;
    }

    pub(super) fn calls(&self) -> u64 {
        self.calls
    }

    /// A new process runs.
    pub(super) fn restart(&mut self) {
        self.calls_left = None;
        self.stopped = false;
    }

    /// A process has made its last call, and no other runs yet.
    pub(super) fn has_stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn alive(&self) -> io::Result<()> {
        if self.stopped {
            return Err(process_ended());
        }
        Ok(())
    }

    /// Begins a call that changes nothing, which the first of the `possible` faults may strike.
    pub(super) fn begin_reading(&mut self, possible: &[DiskFault]) -> Result<(), Refusal> {
        self.alive()?;
        let mut faults = self.faults.iter_mut();
        let next = faults.position(|(fault, _)| possible.contains(fault));
        let struck = next.filter(|at| match &mut self.faults[*at].1 {
            0 => true,
            spared => {
                *spared -= 1;
                false
            }
        });
        match struck.and_then(|at| self.faults.remove(at)) {
            Some((fault, _)) => Err(Refusal {
                error: fault.error(),
                fault: Some(fault),
            }),
            None => Ok(()),
        }
    }

    /// Begins a mutating call, which may be the process's last.
    pub(super) fn begin_mutating(&mut self, possible: &[DiskFault]) -> Result<(), Refusal> {
        self.alive()?;
        self.calls += 1;
        match &mut self.calls_left {
            Some(0) => self.stopped = true,
            Some(left) => *left -= 1,
            None => {}
        }
        self.begin_reading(possible)
    }
}
