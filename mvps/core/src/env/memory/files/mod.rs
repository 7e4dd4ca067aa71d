//! The files of one machine in memory, with the crash semantics of a real disk.
//!
//! One [`MemoryFiles`] is the disk of one machine. It outlives the processes that open files on
//! it: [`MemoryFiles::crash`] ends them, and every file and lock they held is dead from then on. A
//! process kill loses nothing. After a power cut each unsynced sector, length and name is on its
//! own. Failures are scripted, one at a time, so that a test says exactly what goes wrong.
//!
//! - `content`: the bytes of one file, as readers see them and as they are on the medium.
//! - `folder`: the names in one folder, in the same two views.
//! - `schedule`: what is going to go wrong, and when.
//! - `disk`: all of it together, and what processes do with it; `outside`: what happens to it.
//! - `memory_files`: the access of processes and of tests; `file`: what a process holds.
//!
//! Invariants: the same calls with the same draws give the same disk. A watcher is never called
//! under the lock.

mod content;
mod disk;
mod file;
mod folder;
mod memory_files;
mod outside;
mod schedule;
#[cfg(test)]
mod tests;

pub use memory_files::MemoryFiles;
pub use outside::FolderCopy;
pub use schedule::DiskFault;
