//! Small worlds: every short workload, stopped at every call of a trait, with every outcome.
//!
//! What the swarm draws at random is enumerated here at a small size. A workload is a word over a
//! small alphabet; its undisturbed run shows every call of the object store and of the buffer
//! store; at each of them the process dies or falls asleep, the call lost, carried out or late, the
//! buffer store kept, torn at every place or gone; another server goes on, and the oracles are
//! asked. Reading order: [`workload`], [`point`], [`run`], [`world`] and `judge`, [`enumerate`];
//! beneath them [`process`] and [`executor`].
//!
//! What makes it small is counted, not drawn. A run does the same every time, so a workload that
//! begins like a shorter one passes the same calls until its last operation begins: only stops from
//! there on are its own, the earlier ones are worlds of the shorter workload.
//!
//! What it leaves to the swarm: more than one client, more than one fault in a world, faults of the
//! store without a crash, time-outs, more than one image, pages beyond [`workload::PAGES`].

mod client;
pub mod command;
pub mod enumerate;
pub mod executor;
mod judge;
pub mod point;
pub mod process;
pub mod progress;
pub mod run;
pub mod workload;
pub mod world;
