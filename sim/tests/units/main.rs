//! Tests of the simulation's own parts. They are not beside the code, because the library would then
//! be compiled twice, with optimisation, for every `cargo test`.

mod case;
mod enumerate;
mod executor;
mod mutants;
mod point;
mod shrink;
mod workload;
