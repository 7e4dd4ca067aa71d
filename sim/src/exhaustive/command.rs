//! `exhaustive [--large] --ops K [--part I/N | --only WORLD]`.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the command line"
)]

use std::process::ExitCode;

use super::enumerate::{Part, Report, alphabet, enumerate, replay};
use super::workload::Shape;

/// Longest workloads when nothing else is asked for: minutes, with optimisation.
pub const OPERATIONS: usize = 4;

/// Longest workloads of `cargo test`: within 45 s on two cores without optimisation.
pub const TEST_OPERATIONS: usize = 2;

/// Enumerates, and reports.
#[must_use]
pub fn main(shape: Shape, operations: usize, part: Part) -> ExitCode {
    let image = match shape {
        Shape::Small => "an image of four pages",
        Shape::Large => {
            "four pages on both sides of a leaf's end, in a large image with narrow limits"
        }
    };
    println!("small worlds: {image}, all workloads over");
    println!("{}", alphabet());
    if part != Part::WHOLE {
        println!("  of them part {} of {}", part.index + 1, part.of);
    }
    let quietly = std::panic::take_hook();
    // A panic of the engine is reported with its world.
    std::panic::set_hook(Box::new(|_| {}));
    let report = enumerate(shape, operations, part, |report| {
        println!("  {}", line(report))
    });
    std::panic::set_hook(quietly);
    println!("  of the call, of the buffer store, worlds:");
    for ((call, disk), count) in &report.outcomes {
        println!("    {call:<7} {disk:<5} {count:>9}");
    }
    for (world, violation) in &report.failures {
        println!("---- {world}\n{}", violation.what);
        println!("  replay: cargo sim exhaustive --only {world}");
    }
    if report.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn line(report: &Report) -> String {
    format!(
        "up to {} operations: {} workloads, {} stops, {} of {} worlds hold, {:.1} s on {} cores",
        report.operations,
        report.workloads,
        report.stops,
        report.held,
        report.worlds,
        report.took.as_secs_f64(),
        report.cores
    )
}

/// Runs one world again and shows what happens in it.
#[must_use]
pub fn only(world: &str) -> ExitCode {
    match replay(world) {
        Ok(events) => {
            println!("{}\nevery promise holds", events.join("\n"));
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("{}", violation.events.join("\n"));
            eprintln!("{world}: {}", violation.what);
            ExitCode::FAILURE
        }
    }
}
