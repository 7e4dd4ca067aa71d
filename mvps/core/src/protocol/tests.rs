//! The protocol against an in-memory object store, interleaved by hand. Each counterexample of
//! the explicit-state model that concerns writers is a test here, named after the rule that the
//! model leaves out to find it.

mod compose;
mod judgement;
mod opening;
mod opening_decision;
mod publication;
mod tenure;
pub(crate) mod world;
