//! The deterministic simulation of mvps: the engine runs unchanged, its environment is replaced.
//!
//! One seed is one run in one process: a few machines with buffer stores of their own, an object
//! store, clients, and a driver that starts, kills, pauses and replaces servers. Reading order:
//! 1. [`plan`]: what a seed draws; [`scenario`]: who takes part; [`driver`]: what happens to servers.
//! 2. [`environment`]: what replaces clocks, disks, stores and connections; it injects faults.
//! 3. [`model`]: what must be true, kept outside the nodes, and checked as things happen.
//! 4. [`workload`]: what clients do. [`runner`], [`command`]: seeds, processes, reports;
//!    [`coverage`]: what must have happened; [`mutants`]: what must be noticed; [`fidelity`]: the
//!    simulated stores against the suites of real ones.
//! 5. [`exhaustive`]: small worlds, enumerated instead of drawn; they need no madsim.
//!
//! Architecture invariants: nothing in here depends on addresses, real time or hash seeds, so a
//! seed always gives the same digest; the model never reads the engine's state, only what crosses
//! a trait or is answered to a client.

#[cfg(all(feature = "sim", not(madsim)))]
compile_error!(
    "the simulation needs `--cfg madsim`, which .cargo/config.toml sets; your RUSTFLAGS or a \
     config of your own replaces it: unset RUSTFLAGS, or add `--cfg madsim` to it"
);

#[cfg(feature = "sim")]
pub mod case;
#[cfg(feature = "sim")]
pub mod cases;
#[cfg(feature = "sim")]
pub mod command;
#[cfg(feature = "sim")]
pub mod coverage;
#[cfg(feature = "sim")]
pub mod driver;
#[cfg(feature = "sim")]
pub mod environment;
#[cfg(feature = "sim")]
pub mod exhaustive;
#[cfg(feature = "sim")]
pub mod fidelity;
#[cfg(feature = "sim")]
pub mod journal;
#[cfg(feature = "sim")]
pub mod model;
#[cfg(feature = "sim")]
pub mod mutants;
#[cfg(feature = "sim")]
pub mod plan;
#[cfg(feature = "sim")]
pub mod random;
#[cfg(feature = "sim")]
pub mod runner;
#[cfg(feature = "sim")]
pub mod scenario;
#[cfg(feature = "sim")]
pub mod shrink;
#[cfg(feature = "sim")]
pub mod workload;
