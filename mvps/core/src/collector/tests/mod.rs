//! The collector on hand-made stores: what goes, what stays, in which order, whatever fails.

mod amending;
mod chaos;
mod clones;
mod sweeping;
mod world;
