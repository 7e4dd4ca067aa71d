//! The binary `mvps`. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    match mvps::cli::parse(std::env::args_os()) {
        Ok(_) => {
            eprintln!("mvps: the server is not in this build yet; only the command line is");
            ExitCode::FAILURE
        }
        Err(error) => error.exit(),
    }
}
