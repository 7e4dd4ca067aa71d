//! The binary `mvps-gc`.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = mvps_gc::CollectorArgs::parse();
    match mvps_gc::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mvps-gc: {error}");
            ExitCode::FAILURE
        }
    }
}
