//! The binary `mvps`. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    mvps::cli::main()
}
