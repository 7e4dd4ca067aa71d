//! Rooms: which parts of a crate may import which, and that no files import each other in a cycle.
//!
//! A room is a directory or a file at the top of a house (a crate, or one directory of it). The
//! table ([`walls`]) says for each room which others it may import. The check reads the sources as
//! text: [`tokens`] cuts a file into tokens, [`sources`] finds the files of a crate with their
//! `use` declarations and paths, [`resolve`] follows a path to the file that defines the item,
//! through re-exports. [`imports`] are the edges between files, [`cycles`] and [`floors`] what
//! follows from them, [`findings`] the breaches, and [`report`] the figures.
//!
//! An import is: a file names an item that another file defines, by `use` or by a path. A
//! declaration `mod x;` is none, a re-export that the file itself does not use is none, and code
//! that is compiled for tests only is not looked at. Calling a method is no import: its type is
//! named somewhere, or is not needed.
//!
//! It must never pass over what it does not understand in silence: a path into the crate that leads
//! nowhere is a finding.

mod cycles;
mod findings;
mod floors;
mod imports;
mod report;
mod resolve;
mod sources;
#[cfg(test)]
mod tests;
mod tokens;
mod walls;

pub use findings::findings;
pub use report::report;
pub use walls::HOUSES;
